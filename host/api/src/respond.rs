//! Answers, errors and their status codes.

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use berth_plugin::LoadError;
use berth_serving::{ControlError, RequestError};
use berth_store::StoreError;
use serde_json::json;
use tower::ServiceExt as _;

use crate::oip::metadata::ErrorBody;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that is echoed, in bytes; a longer one is replaced.
const REQUEST_ID_LENGTH: usize = 128;

/// An answer of `{"error": "…"}`.
pub(crate) fn error(status: StatusCode, message: &str) -> Response {
    let mut response = (status, Json(ErrorBody { error: message.to_owned() })).into_response();
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The status of a request that has no answer.
pub(crate) fn request_status(error: &RequestError) -> StatusCode {
    match error {
        RequestError::NotFound(_) => StatusCode::NOT_FOUND,
        RequestError::Forbidden(_) => StatusCode::FORBIDDEN,
        RequestError::Invalid(_) => StatusCode::BAD_REQUEST,
        RequestError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        // There is nobody to be told of the last.
        RequestError::Timeout(_) | RequestError::CpuTime(_) | RequestError::Gone => {
            StatusCode::GATEWAY_TIMEOUT
        }
        RequestError::Unavailable(_) | RequestError::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// An operator's request that was not carried out.
pub(crate) struct ControlFailure(pub(crate) ControlError);

impl<E: Into<ControlError>> From<E> for ControlFailure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for ControlFailure {
    fn into_response(self) -> Response {
        let status = match &self.0 {
            ControlError::NotFound(_) => StatusCode::NOT_FOUND,
            ControlError::Store(StoreError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            ControlError::Store(StoreError::Mismatch { .. }) => StatusCode::BAD_REQUEST,
            ControlError::Store(StoreError::Gap { .. } | StoreError::Gone { .. })
            | ControlError::NotUploaded(_) => StatusCode::CONFLICT,
            ControlError::Store(StoreError::Busy) => StatusCode::SERVICE_UNAVAILABLE,
            ControlError::Store(_)
            | ControlError::Predictions(_)
            | ControlError::DataFile { .. }
            | ControlError::Host(_)
            | ControlError::Plugin {
                source: LoadError::Cache(_) | LoadError::Compiler(_), ..
            } => StatusCode::INTERNAL_SERVER_ERROR,
            ControlError::Spec(_)
            | ControlError::Reference(_)
            | ControlError::Plugin { .. }
            | ControlError::Model(_)
            | ControlError::Invalid(_)
            | ControlError::Processor { .. }
            | ControlError::Policy { .. } => StatusCode::BAD_REQUEST,
            ControlError::Conflict(_) => StatusCode::CONFLICT,
        };
        let message = self.0.to_string();
        match self.0 {
            ControlError::NotUploaded(missing) => {
                (status, Json(json!({ "error": message, "missing": missing }))).into_response()
            }
            _ => error(status, &message),
        }
    }
}

/// The request's id: the client's when it can be echoed, else one made here.
#[derive(Clone)]
pub(crate) struct RequestId(pub(crate) HeaderValue);

impl RequestId {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.0.as_bytes()).into_owned()
    }
}

/// Answers one request: gives it an id, and its answer the echo of it.
pub async fn answer(app: Router, mut request: Request) -> Response {
    let given = request
        .headers()
        .get(REQUEST_ID)
        .filter(|id| !id.is_empty() && id.len() <= REQUEST_ID_LENGTH && id.to_str().is_ok());
    let id = given.cloned().unwrap_or_else(made);
    request.extensions_mut().insert(RequestId(id.clone()));
    let Ok(response) = app.oneshot(request).await;
    let mut response = in_json(response).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// A new request id.
fn made() -> HeaderValue {
    let mut digits = [0; 32];
    let made = uuid::Uuid::new_v4().simple().encode_lower(&mut digits);
    // Hexadecimal digits are a header value.
    HeaderValue::from_str(made).unwrap_or(HeaderValue::from_static("-"))
}

/// Puts the framework's own refusals, which are plain text, into the form of all others.
async fn in_json(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let plain = kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !plain || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let text = to_bytes(response.into_body(), 4 << 10).await.unwrap_or_default();
    error(status, &String::from_utf8_lossy(&text))
}

/// No such path.
pub(crate) async fn not_found(request: Request) -> Response {
    error(StatusCode::NOT_FOUND, &format!("there is no {}", request.uri().path()))
}

/// The path is there, for another method.
pub(crate) async fn wrong_method(request: Request) -> Response {
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    error(StatusCode::METHOD_NOT_ALLOWED, &message)
}
