//! The generated bindings of `wit/`: the plugin ABI itself, one module for each world.
//!
//! The rest of this crate covers what plugins usually need; these modules are for what it leaves
//! out. Interfaces that worlds share are generated once, so that their types are the same in all.

#![expect(
    missing_docs,
    reason = "generated from wit/, where every item that needs it is documented"
)]

/// The world `processor`.
pub mod processor {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "processor",
        generate_all,
        pub_export_macro: true,
    });
}

/// The world `policy`.
pub mod policy {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "policy",
        with: {
            "berth:plugin/types@0.1.0": super::processor::berth::plugin::types,
            "berth:plugin/log@0.1.0": super::processor::berth::plugin::log,
        },
        generate_all,
        pub_export_macro: true,
    });
}

/// What the world `routing-policy` adds to `policy`.
pub mod router {
    wit_bindgen::generate!({
        inline: "
            package berth:sdk;
            world router {
                export berth:plugin/routing@0.1.0;
            }
        ",
        path: "../../wit",
        with: {
            "berth:plugin/types@0.1.0": super::processor::berth::plugin::types,
            "berth:plugin/observing@0.1.0": super::policy::berth::plugin::observing,
            "berth:plugin/planning@0.1.0": super::policy::berth::plugin::planning,
        },
        generate_all,
        pub_export_macro: true,
    });
}
