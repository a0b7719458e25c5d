//! Variants among which chance decides take the same requests.

use berth_tensor::TensorType;

use crate::error::ControlError;
use crate::live::{LiveRevision, LiveVariant, Way};
use crate::spec::SpecError;

impl LiveRevision {
    /// Refuses a variant that does not take what another does, where the policy draws one of them without
    /// having seen the request: what is answered would be a matter of chance. A router may know better.
    pub(crate) fn check_alike(&self) -> Result<(), ControlError> {
        let Some(routed) = self.routed().filter(|routed| routed.draws_by_shares()) else {
            return Ok(());
        };
        // One that is evaluated again may draw any variant.
        let any = routed.standing().evaluation().next_tick_ms.is_some();
        let shares = self.variants.iter().zip(self.shares());
        let mut drawn = shares.filter(|(_, share)| any || *share > 0.0);
        let Some((first, _)) = drawn.next() else { return Ok(()) };
        for (other, _) in drawn {
            if let Some(problem) = lacks(other, first) {
                let problem = format!(
                    "{problem}, and the policy draws this variant or {} for the same request: give them what takes the same, or a policy that sees the request",
                    first.name
                );
                return Err(SpecError::new(format!("variants.{}", other.name), problem).into());
            }
        }
        Ok(())
    }

    /// What clients of `before` can no longer send, if there is something: whoever does not ask for a
    /// variant goes by what the first one says of itself.
    pub(crate) fn takes_no_longer(&self, before: &Self) -> Option<String> {
        let (next, live) = (self.variants.first()?, before.variants.first()?);
        lacks(next, live)
    }
}

/// What a variant takes, as far as it says.
struct Takes<'a> {
    /// Its processor, or its model.
    what: &'a str,
    inputs: &'a [TensorType],
    /// Whether all of the inputs come together; a processor may take one or another.
    all: bool,
    /// Whether it takes bodies; none where a processor says nothing of what it takes.
    bodies: Option<bool>,
}

impl<'a> Takes<'a> {
    fn of(variant: &'a LiveVariant) -> Self {
        match &variant.way {
            Way::Model(model) => Takes {
                what: variant.models.first().map_or(model.name(), |bound| &bound.name),
                inputs: model.inputs(),
                all: true,
                bodies: Some(false),
            },
            Way::Processor(processing) => {
                let (types, inputs) =
                    (&processing.signature.content_types, &processing.signature.inputs);
                let silent = types.is_empty() && inputs.is_empty();
                Takes {
                    what: processing.processor.name(),
                    inputs,
                    all: false,
                    bodies: (!silent).then_some(!types.is_empty()),
                }
            }
        }
    }
}

/// What `other` does not take of what `first` does, or wants besides.
fn lacks(other: &LiveVariant, first: &LiveVariant) -> Option<String> {
    let (other, first) = (Takes::of(other), Takes::of(first));
    if first.bodies == Some(true) && other.bodies == Some(false) {
        return Some(format!("{} takes no bodies, and {} does", other.what, first.what));
    }
    // A processor that lists no tensors takes whatever it makes of them.
    if first.inputs.is_empty() || other.inputs.is_empty() {
        return None;
    }
    for wanted in first.inputs {
        let Some(taken) = other.inputs.iter().find(|input| input.name == wanted.name) else {
            return Some(format!(
                "{} takes no input {:?}, and {} does",
                other.what, wanted.name, first.what
            ));
        };
        if !covers(taken, wanted) {
            return Some(format!(
                "{} takes input {:?} as {} {:?}, {} as {} {:?}",
                other.what,
                wanted.name,
                taken.datatype,
                taken.shape,
                first.what,
                wanted.datatype,
                wanted.shape
            ));
        }
    }
    let known = |input: &&TensorType| first.inputs.iter().any(|wanted| wanted.name == input.name);
    let more = other.inputs.iter().find(|input| !known(input)).filter(|_| other.all)?;
    Some(format!("{} also takes input {:?}, {} does not", other.what, more.name, first.what))
}

/// Whether every tensor of type `wanted` is one of type `taken`. A model's type without dimensions is a
/// scalar or of any shape, which cannot be told.
fn covers(taken: &TensorType, wanted: &TensorType) -> bool {
    let any = taken.shape.is_empty() || wanted.shape.is_empty();
    let sizes = || taken.shape.iter().zip(&wanted.shape);
    taken.datatype == wanted.datatype
        && (any
            || taken.shape.len() == wanted.shape.len()
                && sizes().all(|(&taken, &wanted)| taken < 0 || taken == wanted))
}
