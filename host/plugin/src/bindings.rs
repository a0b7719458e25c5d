//! Rust types and traits of the WIT worlds in `wit/`.

/// The world `processor`.
pub(crate) mod processor {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "berth:plugin/processor",
        imports: {
            "wasi:nn/inference@0.2.0-rc-2024-10-28.[method]graph-execution-context.compute": async | trappable,
            "berth:plugin/model@0.1.0.[method]inference.wait": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        with: {
            "wasi:nn/tensor@0.2.0-rc-2024-10-28.tensor": crate::nn::NnTensor,
            "wasi:nn/graph@0.2.0-rc-2024-10-28.graph": crate::nn::Graph,
            "wasi:nn/inference@0.2.0-rc-2024-10-28.graph-execution-context": crate::nn::Graph,
            "wasi:nn/errors@0.2.0-rc-2024-10-28.error": crate::nn::NnError,
            "berth:plugin/model@0.1.0.tensor": berth_tensor::Tensor,
            "berth:plugin/model@0.1.0.model": crate::model::OpenModel,
            "berth:plugin/model@0.1.0.inference": crate::model::Started,
            "berth:plugin/exchange@0.1.0.request": crate::exchange::Request,
            "berth:plugin/exchange@0.1.0.reply": crate::exchange::Reply,
            "berth:plugin/assets@0.1.0.asset": crate::assets::OpenAsset,
        },
    });
}

/// The world `routing-policy`, which includes `policy`.
pub(crate) mod policy {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "berth:plugin/routing-policy",
        imports: { default: trappable },
        with: {
            "berth:plugin/types@0.1.0": crate::bindings::processor::berth::plugin::types,
            "berth:plugin/log@0.1.0": crate::bindings::processor::berth::plugin::log,
            "berth:plugin/observing@0.1.0.observation": crate::observing::Observation,
            "berth:plugin/observing@0.1.0.subject": crate::observing::Subject,
        },
    });
}
