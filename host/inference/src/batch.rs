//! Inferences of several requests as one run of the model.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use berth_tensor::Tensor;
use bytes::{Bytes, BytesMut};
use smallvec::smallvec;

use crate::deadline::{Run, Ticket};
use crate::model::{Few, Opened, Plan, size};
use crate::onnxruntime::session::Stop;
use crate::pace::{LONG, clock};

#[cfg(test)]
pub(crate) mod tests;

/// One inference that waits for a thread.
pub(crate) struct Entry {
    pub(crate) ticket: Arc<Ticket>,
    pub(crate) opened: Arc<Opened>,
    pub(crate) plan: Plan,
    /// In the order of the plan's inputs.
    pub(crate) tensors: Vec<Tensor>,
    /// Until when it may be held for others to run with.
    pub(crate) due: Instant,
}

impl Entry {
    /// The leading dimension that all its inputs share, when it can run with others.
    fn rows(&self) -> Option<u64> {
        let rows = *self.tensors.first()?.shape().first()?;
        let same = |tensor: &Tensor| tensor.shape().first() == Some(&rows);
        (rows > 0 && self.tensors.iter().all(same)).then_some(rows)
    }

    /// Whether the two, for one model, differ in their leading dimensions and data alone.
    fn fits(&self, other: &Self) -> bool {
        let alike = |(one, two): (&Tensor, &Tensor)| {
            one.datatype() == two.datatype() && one.shape().get(1..) == two.shape().get(1..)
        };
        self.plan == other.plan && self.tensors.iter().zip(&other.tensors).all(alike)
    }
}

/// The places of those that run as one with the entry at `first`, itself included; or until when it
/// is held for more of them. Nothing is held that waits alone.
pub(crate) fn together(
    waiting: &VecDeque<Entry>,
    first: usize,
    now: Instant,
) -> Result<Few<usize>, Instant> {
    let mut places: Few<usize> = smallvec![first];
    let Some(head) = waiting.get(first) else { return Ok(places) };
    let most = head.opened.most_rows();
    let Some(mut total) = head.rows().filter(|&rows| rows < most) else { return Ok(places) };
    let mut due = head.due;
    for (place, entry) in waiting.iter().enumerate().skip(first + 1) {
        if entry.ticket.is_dead() || !Arc::ptr_eq(&entry.opened, &head.opened) {
            continue;
        }
        // What does not fit waits behind this as well.
        due = due.min(entry.due);
        if let Some(rows) = entry.rows().filter(|rows| total + rows <= most)
            && head.fits(entry)
        {
            total += rows;
            places.push(place);
            if total == most {
                return Ok(places);
            }
        }
    }
    if places.len() > 1 && due > now { Err(due) } else { Ok(places) }
}

/// Runs entries that [`together`] has found, and answers their tickets. When what was put together
/// fails, either half runs by itself, and so on: what the model cannot take fails no other.
///
/// So one of `n` entries that the model cannot take costs at most `2 log2 n` more runs, in which each
/// row is run again at most twice on average; however many there are of them, all runs are fewer than
/// `2 n`, and each row is in at most `1 + log2 n` of them (`log2 n` rounded up).
pub(crate) fn run(entries: Vec<Entry>) {
    let run = match Run::new() {
        Ok(run) => run,
        Err(error) => {
            return entries.iter().for_each(|entry| entry.ticket.answer(Err(error.clone())));
        }
    };
    // Who is dead by now is left out.
    let entries: Vec<_> = entries.into_iter().filter(|entry| entry.ticket.join(&run)).collect();
    if !run.unwanted() {
        return;
    }
    if let [entry] = entries.as_slice() {
        let Entry { ticket, opened, plan, tensors, .. } = entry;
        // By what this thread works: that others have the cores makes no model slow.
        let start = clock(&opened.session);
        let answer = opened.run(plan, tensors.iter(), ticket, &run.stop);
        let took = clock(&opened.session).saturating_sub(start);
        opened.note(&answer, size(tensors.iter()), took, LONG);
        ticket.answer(answer);
        return;
    }
    let Some(first) = entries.first() else { return };
    match all(&first.opened, &entries, &run.stop) {
        Ok(answers) => {
            for (entry, answer) in entries.iter().zip(answers) {
                entry.ticket.ended();
                entry.ticket.answer(Ok(answer));
            }
        }
        Err(problem) => {
            let mut living: Vec<_> =
                entries.into_iter().filter(|entry| !entry.ticket.is_dead()).collect();
            if let Some(first) = living.first() {
                first.opened.failed_together(&problem);
            }
            let others = living.split_off(living.len() / 2);
            for half in [living, others].into_iter().filter(|half| !half.is_empty()) {
                self::run(half);
            }
        }
    }
}

/// One run for all entries: their answers, in order.
fn all(opened: &Opened, entries: &[Entry], stop: &Stop) -> Result<Vec<Vec<Tensor>>, String> {
    let rows: Vec<u64> = entries.iter().filter_map(Entry::rows).collect();
    let stacked = stack(entries)?;
    let plan = &entries[0].plan;
    let inputs: Few<_> = plan.inputs.iter().copied().zip(&stacked).collect();
    let outputs = opened.session.run(&inputs, &plan.outputs, stop)?;
    opened.ran_together(entries.len());
    let mut answers: Vec<_> = rows.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
    for output in outputs {
        for (answer, part) in answers.iter_mut().zip(split(&output, &rows)?) {
            answer.push(part);
        }
    }
    Ok(answers)
}

/// The inputs of all entries, one after the other.
fn stack(entries: &[Entry]) -> Result<Few<Tensor>, String> {
    let first = &entries[0].tensors;
    let input = |(place, input): (usize, &Tensor)| {
        let parts = || entries.iter().map(|entry| &entry.tensors[place]);
        let mut shape = input.shape().to_vec();
        shape[0] = parts().map(|part| part.shape()[0]).sum();
        let mut data = BytesMut::with_capacity(parts().map(|part| part.data().len()).sum());
        parts().for_each(|part| data.extend_from_slice(part.data()));
        Tensor::new(input.datatype(), shape, data.freeze()).map_err(|error| error.to_string())
    };
    first.iter().enumerate().map(input).collect()
}

/// The parts of an output that belong to the entries with so many rows each.
pub(crate) fn split(output: &Tensor, rows: &[u64]) -> Result<Vec<Tensor>, String> {
    let total: u64 = rows.iter().sum();
    if output.shape().first() != Some(&total) || total == 0 {
        return Err(format!("an output of shape {:?} for {total} rows", output.shape()));
    }
    let mut rest = output.data().clone();
    let part = |&rows: &u64| {
        let mut shape = output.shape().to_vec();
        shape[0] = rows;
        let elements = output.elements() / total * rows;
        let length = match output.datatype().size() {
            Some(size) => elements as usize * size,
            None => strings(&rest, elements),
        };
        let mut data = rest.split_to(length.min(rest.len()));
        // A part that is kept would keep the whole.
        if data.len() < output.data().len() {
            data = Bytes::copy_from_slice(&data);
        }
        Tensor::new(output.datatype(), shape, data).map_err(|error| error.to_string())
    };
    rows.iter().map(part).collect()
}

/// The bytes of so many strings, each with its length before it.
fn strings(data: &[u8], count: u64) -> usize {
    let mut end = 0;
    for _ in 0..count {
        let Some(length) = data.get(end..).and_then(<[u8]>::first_chunk::<4>) else { break };
        end += 4 + u32::from_le_bytes(*length) as usize;
    }
    end
}
