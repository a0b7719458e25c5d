//! From an endpoint file to a revision: every reference fixed by digest, and what differs from the
//! live revision.

use berth_plugin::Kind;
use berth_tensor::{Digest, Reference};
use serde_json::{Map, Value};

use crate::catalog::{self, pin};
use crate::documents::{
    ModelVersion, Pinned, PinnedPolicy, PinnedVariant, PluginVersion, Revision,
};
use crate::error::ControlError;
use crate::host::Host;
use crate::rollouts::PinnedRollout;
use crate::spec::{EndpointSpec, SpecError, VariantSpec};
use crate::warm_up::WarmUp;

/// When a request is given up, unless the endpoint says otherwise.
const TIMEOUT_MS: u64 = 30_000;

impl Host {
    /// Fixes every reference of a file by version and digest.
    pub(crate) fn resolve(&self, spec: &EndpointSpec) -> Result<Revision, ControlError> {
        spec.limits.check(self.workshop.engines.limits(), self.workshop.instances_each)?;
        let variants: Result<Vec<_>, _> =
            spec.variants.iter().map(|variant| self.resolve_variant(variant)).collect();
        Ok(Revision {
            endpoint: spec.name.clone(),
            attributes: spec.attributes.clone(),
            unit: spec.unit.clone(),
            slices: spec.slices.clone(),
            timeout_ms: spec.timeout_ms.unwrap_or(TIMEOUT_MS),
            direct: spec.direct,
            limits: spec.limits,
            models: spec.models.clone(),
            routing: spec
                .routing
                .as_ref()
                .map(|spec| self.resolve_policy("routing", &spec.policy, &spec.config))
                .transpose()?,
            shadow: spec.shadow,
            warm_up: self.resolve_warm_up(spec)?,
            predictions: spec.predictions.clone(),
            variants: variants?,
        })
    }

    /// Fixes the policy of a file's rollout by version and digest.
    pub(crate) fn resolve_rollout(
        &self,
        spec: &EndpointSpec,
    ) -> Result<Option<PinnedRollout>, ControlError> {
        let Some(spec) = &spec.rollout else { return Ok(None) };
        let policy = self.resolve_policy("rollout", &spec.policy, &spec.config)?;
        Ok(Some(PinnedRollout { policy, max_step: spec.max_step }))
    }

    fn resolve_policy(
        &self,
        table: &str,
        policy: &Reference,
        config: &Map<String, Value>,
    ) -> Result<PinnedPolicy, ControlError> {
        let key = format!("{table}.policy");
        let found = catalog::resolve::<PluginVersion>(self.store(), policy);
        let version = found.map_err(|error| at(&key, error))?;
        expect_kind(&version, Kind::Policy, &key)?;
        Ok(PinnedPolicy { policy: pin(&version), config: config.clone() })
    }

    fn resolve_warm_up(&self, spec: &EndpointSpec) -> Result<Option<WarmUp>, ControlError> {
        if let Some(warm_up) = &spec.warm_up {
            self.expect_blob("warm_up", &warm_up.digest()?)?;
        }
        Ok(spec.warm_up.clone())
    }

    /// Refuses a file that was not uploaded.
    fn expect_blob(&self, key: &str, digest: &Digest) -> Result<(), ControlError> {
        if self.store().blob_exists(digest)? {
            return Ok(());
        }
        let problem = format!("there is no blob sha256:{digest}: upload the file first");
        Err(SpecError::new(key, problem).into())
    }

    fn resolve_variant(&self, spec: &VariantSpec) -> Result<PinnedVariant, ControlError> {
        let key = |part: &str| format!("variants.{}.{part}", spec.name);
        let processor = match &spec.processor {
            None => None,
            Some(reference) => {
                let found = catalog::resolve::<PluginVersion>(self.store(), reference);
                let version = found.map_err(|error| at(&key("processor"), error))?;
                expect_kind(&version, Kind::Processor, &key("processor"))?;
                Some(pin(&version))
            }
        };
        let models = spec.models.iter().map(|(role, reference)| {
            let found = catalog::resolve::<ModelVersion>(self.store(), reference);
            let version = found.map_err(|error| at(&key(&format!("models.{role}")), error))?;
            Ok((role.clone(), pin(&version)))
        });
        let models = models.collect::<Result<_, ControlError>>()?;
        let assets = spec.asset_digests()?;
        for (name, digest) in &assets {
            self.expect_blob(&key(&format!("assets.{name}")), digest)?;
        }
        Ok(PinnedVariant {
            name: spec.name.clone(),
            processor,
            models,
            config: spec.config.clone(),
            assets,
        })
    }

    /// What differs from the live revision, a line each, newly granted imports included.
    pub(crate) fn changes(&self, live: Option<Digest>, next: &Revision) -> Vec<String> {
        let Some(Ok(live)) = live.map(|digest| self.revision(digest)) else {
            return vec![format!("endpoint {} is new", next.endpoint)];
        };
        let mut lines = Vec::new();
        for variant in &next.variants {
            let Some(before) = live.variants.iter().find(|before| before.name == variant.name)
            else {
                lines.push(format!("variant {} is new", variant.name));
                continue;
            };
            let part = |value: &Option<Pinned>| {
                value.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
            };
            if before.processor != variant.processor {
                let (old, new) = (part(&before.processor), part(&variant.processor));
                lines.push(format!("variant {}: processor {old} -> {new}", variant.name));
                lines.extend(self.new_imports(before, variant));
            }
            for (role, model) in &variant.models {
                match before.models.get(role) {
                    Some(old) if old == model => {}
                    Some(old) => lines
                        .push(format!("variant {}: model {role} {old} -> {model}", variant.name)),
                    None => lines.push(format!(
                        "variant {}: model {role} {model} is newly granted",
                        variant.name
                    )),
                }
            }
            if before.config != variant.config {
                lines.push(format!("variant {}: config", variant.name));
            }
            if before.assets != variant.assets {
                lines.push(format!("variant {}: assets", variant.name));
            }
        }
        for before in &live.variants {
            if !next.variants.iter().any(|variant| variant.name == before.name) {
                lines.push(format!("variant {} goes", before.name));
            }
        }
        if live.routing != next.routing {
            lines.push("routing".into());
        }
        if live.warm_up != next.warm_up {
            lines.push("warm-up".into());
        }
        if live.predictions != next.predictions {
            lines.push("what is recorded".into());
        }
        if live.limits != next.limits {
            lines.push("limits".into());
        }
        if live.models != next.models {
            lines.push("how its models are run".into());
        }
        if (&live.slices, live.shadow) != (&next.slices, next.shadow) {
            lines.push("slices or how shadows are compared".into());
        }
        if (&live.attributes, &live.unit, live.timeout_ms, live.direct)
            != (&next.attributes, &next.unit, next.timeout_ms, next.direct)
        {
            lines.push("attributes, unit, timeout or direct access".into());
        }
        lines
    }

    fn new_imports(&self, before: &PinnedVariant, after: &PinnedVariant) -> Vec<String> {
        let imports = |variant: &PinnedVariant| {
            let plugin = variant.processor.as_ref()?;
            let known = catalog::versions::<PluginVersion>(self.store(), &plugin.name).ok()?;
            known
                .into_iter()
                .find(|known| known.version == plugin.version)
                .map(|known| known.inspection.imports)
        };
        let (old, new) = (imports(before).unwrap_or_default(), imports(after).unwrap_or_default());
        let fresh = new.into_iter().filter(|import| !old.contains(import));
        fresh.map(|import| format!("variant {}: newly imports {import}", after.name)).collect()
    }
}

/// Refuses a plugin of the other kind.
fn expect_kind(version: &PluginVersion, kind: Kind, key: &str) -> Result<(), ControlError> {
    let found = version.inspection.kind;
    if found == kind {
        return Ok(());
    }
    Err(SpecError::new(key, format!("{} is a {found}, expected a {kind}", pin(version))).into())
}

/// Puts the key of the endpoint file before what could not be found.
fn at(key: &str, error: ControlError) -> ControlError {
    match error {
        ControlError::NotFound(message) => ControlError::NotFound(format!("{key}: {message}")),
        error => error,
    }
}
