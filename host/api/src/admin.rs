//! The admin port: the command line's verbs as JSON, and metrics.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use berth_monitor::Exporter;
use berth_plugin::compile::COMPONENT_SIZE;
use berth_rollout::verbs::{self, Verb};
use berth_serving::documents::{ModelFiles, ModelVersion, PluginVersion};
use berth_serving::{ControlError, EndpointSpec, Host, catalog};
use berth_store::{Note, SealedBlob, StoreError};
use berth_tensor::digest::DigestError;
use berth_tensor::{Digest, Name};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::predictions;
use crate::respond::{ControlFailure, error, not_found, wrong_method};

/// The largest model, in bytes.
const MODEL_SIZE: u64 = 64 << 30;

/// The largest asset, in bytes: assets are held in memory.
const ASSET_SIZE: u64 = 256 << 20;

/// The largest endpoint file, in bytes.
const SPEC_SIZE: usize = 1 << 20;

/// What the admin port needs to know.
#[derive(Clone)]
pub struct Admin {
    /// The endpoints.
    pub host: Arc<Host>,
    /// The metrics.
    pub exporter: Exporter,
}

/// The routes of the admin port.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/v1/models", get(list::<ModelVersion>))
        .route("/v1/models/{name}", get(show::<ModelVersion>).post(push_model))
        .route("/v1/models/{name}/files", post(push_files))
        .route("/v1/uploads/{digest}", put(upload))
        .route("/v1/models/{name}/aliases/{alias}", put(alias::<ModelVersion>))
        .route("/v1/plugins", get(list::<PluginVersion>))
        .route("/v1/plugins/{name}", get(show::<PluginVersion>).post(push_plugin))
        .route("/v1/plugins/{name}/aliases/{alias}", put(alias::<PluginVersion>))
        .route("/v1/assets", post(push_asset))
        .route("/v1/endpoints", get(endpoints).post(apply))
        .route("/v1/endpoints/{name}", get(endpoint).delete(delete))
        .route("/v1/endpoints/{name}/history", get(history))
        .route("/v1/endpoints/{name}/rollback", post(rollback))
        .route("/v1/endpoints/{name}/shadow", get(shadow))
        .route("/v1/endpoints/{name}/rollout", get(rollout))
        .route("/v1/endpoints/{name}/rollout/{verb}", post(ask_rollout))
        .route("/v1/endpoints/{name}/predictions", get(predictions::query))
        .route("/v1/endpoints/{name}/predictions/files", get(predictions::files))
        .route("/v1/endpoints/{name}/predictions/files/{file}", get(predictions::file))
        .route("/v1/endpoints/{name}/predictions/scores", get(predictions::scores))
        .route("/v1/predictions/{id}/replay", post(predictions::replay))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(SPEC_SIZE))
        .with_state(admin)
}

pub(crate) type Answer = Result<Response, ControlFailure>;

/// Who changes something and why, and how an apply goes.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    who: String,
    why: String,
    no_wait: bool,
    dry_run: bool,
    to: Option<String>,
    version: Option<u64>,
}

impl Options {
    fn note(&self) -> Note {
        let who = if self.who.is_empty() { "unknown" } else { &self.who };
        Note { who: who.to_owned(), why: self.why.clone() }
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], admin.exporter.render())
        .into_response()
}

async fn list<T: catalog::Versioned>(State(admin): State<Admin>) -> Answer {
    Ok(Json(catalog::list::<T>(admin.host.store())?).into_response())
}

async fn show<T: catalog::Versioned>(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Answer {
    Ok(Json(catalog::versions::<T>(admin.host.store(), &name.parse()?)?).into_response())
}

async fn alias<T: catalog::Versioned>(
    State(admin): State<Admin>,
    Path((name, alias)): Path<(String, String)>,
    Query(options): Query<Options>,
) -> Answer {
    let version = options.version.ok_or_else(|| ControlError::Invalid("give ?version=N".into()))?;
    catalog::set_alias::<T>(
        admin.host.store(),
        &name.parse()?,
        &alias.parse()?,
        version,
        &options.note(),
    )?;
    Ok(Json(json!({ "name": name, "alias": alias, "version": version })).into_response())
}

async fn push_model(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(options): Query<Options>,
    body: Body,
) -> Answer {
    let name: Name = name.parse()?;
    let blob = keep(&admin.host, body, MODEL_SIZE).await?;
    Ok(Json(admin.host.push_model(name, blob, options.note()).await?).into_response())
}

/// Pushes a model whose files were uploaded, or says what is to be uploaded first.
async fn push_files(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(options): Query<Options>,
    body: Result<Json<ModelFiles>, JsonRejection>,
) -> Answer {
    let name: Name = name.parse()?;
    let Json(files) = match body {
        Ok(body) => body,
        Err(problem) => return Ok(error(problem.status(), &problem.body_text())),
    };
    Ok(Json(admin.host.push_files(name, files, options.note()).await?).into_response())
}

/// Where a body belongs in an upload.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    #[serde(default)]
    offset: u64,
    /// Of the whole upload.
    bytes: u64,
}

/// Goes on with an upload. What has arrived stays when the connection breaks.
async fn upload(
    State(admin): State<Admin>,
    Path(digest): Path<String>,
    Query(Part { offset, bytes }): Query<Part>,
    mut body: Body,
) -> Answer {
    let digest: Digest =
        digest.parse().map_err(|error: DigestError| ControlError::Invalid(error.to_string()))?;
    let store = admin.host.store();
    let mut upload = block_in_place(|| store.upload(digest, offset, bytes))?;
    while let Some(piece) = next_piece(&mut body).await? {
        block_in_place(|| upload.write(&piece))?;
    }
    let held = block_in_place(|| upload.finish())?;
    Ok(Json(json!({ "digest": digest, "bytes": held })).into_response())
}

async fn push_plugin(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(options): Query<Options>,
    body: Body,
) -> Answer {
    let name: Name = name.parse()?;
    let blob = keep(&admin.host, body, COMPONENT_SIZE as u64).await?;
    Ok(Json(admin.host.push_plugin(name, blob, options.note()).await?).into_response())
}

async fn push_asset(State(admin): State<Admin>, body: Body) -> Answer {
    let blob = keep(&admin.host, body, ASSET_SIZE).await?;
    let (digest, bytes) = (blob.digest(), blob.size());
    block_in_place(|| blob.place())?;
    Ok(Json(json!({ "digest": digest, "bytes": bytes })).into_response())
}

async fn apply(
    State(admin): State<Admin>,
    Query(options): Query<Options>,
    body: Result<Json<Value>, JsonRejection>,
) -> Answer {
    let Json(value) = match body {
        Ok(body) => body,
        Err(problem) => return Ok(error(problem.status(), &problem.body_text())),
    };
    let spec: EndpointSpec = match serde_json::from_value(value) {
        Ok(spec) => spec,
        Err(problem) => {
            return Ok(error(StatusCode::BAD_REQUEST, &format!("the endpoint: {problem}")));
        }
    };
    let applied = match options.dry_run {
        true => admin.host.dry_run(spec).await?,
        false => admin.host.apply(spec, options.note(), !options.no_wait).await?,
    };
    Ok(Json(applied).into_response())
}

async fn rollback(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(options): Query<Options>,
) -> Answer {
    let wait = !options.no_wait;
    let rolled =
        admin.host.rollback(&name.parse()?, options.to.as_deref(), options.note(), wait).await?;
    Ok(Json(rolled).into_response())
}

async fn delete(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(options): Query<Options>,
) -> Answer {
    admin.host.delete(&name.parse()?, options.note()).await?;
    Ok(Json(json!({ "endpoint": name, "deleted": true })).into_response())
}

async fn endpoints(State(admin): State<Admin>) -> Answer {
    Ok(Json(admin.host.endpoints()?).into_response())
}

async fn endpoint(State(admin): State<Admin>, Path(name): Path<String>) -> Answer {
    Ok(Json(admin.host.show(&name.parse()?)?).into_response())
}

async fn history(State(admin): State<Admin>, Path(name): Path<String>) -> Answer {
    Ok(Json(admin.host.history(&name.parse()?)?).into_response())
}

async fn shadow(State(admin): State<Admin>, Path(name): Path<String>) -> Answer {
    Ok(Json(admin.host.shadows(&name.parse()?)?).into_response())
}

async fn rollout(State(admin): State<Admin>, Path(name): Path<String>) -> Answer {
    Ok(Json(verbs::status(&admin.host, &name.parse()?)?).into_response())
}

async fn ask_rollout(
    State(admin): State<Admin>,
    Path((name, verb)): Path<(String, Verb)>,
    Query(options): Query<Options>,
) -> Answer {
    let asked = verbs::ask(&admin.host, &name.parse()?, verb, options.note()).await?;
    Ok(Json(asked).into_response())
}

/// Streams a body into the store, where it stays once it is placed.
async fn keep(host: &Host, mut body: Body, most: u64) -> Result<SealedBlob, ControlFailure> {
    // Known from its announced length, before any of it is read.
    if body.size_hint().lower() > most {
        return Err(StoreError::TooLarge { what: "the content".into(), limit: most }.into());
    }
    let mut writer = block_in_place(|| host.store().blob_writer(most))?;
    while let Some(piece) = next_piece(&mut body).await? {
        block_in_place(|| writer.write(&piece))?;
    }
    Ok(block_in_place(|| writer.seal(None))?)
}

async fn next_piece(body: &mut Body) -> Result<Option<Bytes>, ControlError> {
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|problem| ControlError::Invalid(format!("the body broke off: {problem}")))?;
        if let Ok(piece) = frame.into_data() {
            return Ok(Some(piece));
        }
    }
    Ok(None)
}
