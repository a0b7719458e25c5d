//! A server written by hand for one model: what Berth is measured against.
//!
//! `bench-native ADDRESS MODEL` answers `POST /v2/models/{name}/infer` with what the model makes of
//! one FP32 tensor; `bench-native ADDRESS MODEL CONFIG` answers `POST /v2/models/{name}/invoke`
//! with the classes of a picture, as the plugin `image-classifier` does under the same
//! configuration. `ORT_DYLIB_PATH` names ONNX Runtime.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;

use berth_bench::Failure;
use berth_bench::pictures::Classifier;
use berth_bench::session::Model;
use berth_bench::tensors::Tensors;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (address, file, config) = match arguments.as_slice() {
        [address, file] => (address, file, None),
        [address, file, config] => (address, file, Some(config)),
        _ => bail!("usage: bench-native ADDRESS MODEL [CONFIG]"),
    };
    let model = Model::open(file)?;
    let routes = match config {
        None => {
            let tensors = Arc::new(Tensors::new(model)?);
            let infer = move |Path(name): Path<String>, body: Bytes| {
                let tensors = Arc::clone(&tensors);
                async move { respond(tensors.infer(&name, &body)) }
            };
            Router::new().route("/v2/models/{name}/infer", post(infer))
        }
        Some(config) => {
            let classifier = Arc::new(Classifier::new(model, config)?);
            let invoke = move |body: Bytes| {
                let classifier = Arc::clone(&classifier);
                async move { respond(classifier.classify(&body, |_| {})) }
            };
            Router::new().route("/v2/models/{name}/invoke", post(invoke))
        }
    };
    let routes =
        routes.route("/v2/health/ready", get(|| async {})).layer(DefaultBodyLimit::max(64 << 20));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("nothing can listen on {address}"))?;
        let listener = listener.tap_io(|stream| {
            // A connection that refuses works all the same.
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, routes).await.context("the server ended")
    })
}

fn respond(answer: Result<Vec<u8>, Failure>) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    match answer {
        Ok(body) => (json, body).into_response(),
        Err(Failure::Request(problem)) => (StatusCode::BAD_REQUEST, problem).into_response(),
        Err(Failure::Server(problem)) => {
            (StatusCode::INTERNAL_SERVER_ERROR, problem).into_response()
        }
    }
}
