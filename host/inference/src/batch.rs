//! Inferences of several requests as one run of the model.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use berth_tensor::Tensor;
use bytes::{Bytes, BytesMut};

use crate::deadline::{Run, Ticket};
use crate::model::{Few, Opened, Plan};
use crate::onnxruntime::session::Stop;

/// One inference that waits for a thread.
pub(crate) struct Entry {
    pub(crate) ticket: Arc<Ticket>,
    pub(crate) opened: Arc<Opened>,
    pub(crate) plan: Plan,
    /// In the order of the plan's inputs.
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) since: Instant,
}

impl Entry {
    /// The leading dimension that all its inputs share, when it can run with others.
    fn rows(&self) -> Option<u64> {
        let rows = *self.tensors.first()?.shape().first()?;
        let same = |tensor: &Tensor| tensor.shape().first() == Some(&rows);
        (rows > 0 && self.tensors.iter().all(same)).then_some(rows)
    }

    /// Whether the two differ in their leading dimensions and data alone.
    fn fits(&self, other: &Self) -> bool {
        let alike = |(one, two): (&Tensor, &Tensor)| {
            one.datatype() == two.datatype() && one.shape().get(1..) == two.shape().get(1..)
        };
        Arc::ptr_eq(&self.opened, &other.opened)
            && self.plan == other.plan
            && self.tensors.iter().zip(&other.tensors).all(alike)
    }
}

/// The places of those that may run with the first, itself included, and whether no more would fit.
pub(crate) fn together(waiting: &VecDeque<Entry>) -> (Vec<usize>, bool) {
    let mut places = vec![0];
    let Some(first) = waiting.front() else { return (Vec::new(), true) };
    let most = first.opened.most_rows();
    let Some(mut total) = first.rows().filter(|&rows| rows < most) else { return (places, true) };
    for (place, entry) in waiting.iter().enumerate().skip(1) {
        if total >= most {
            break;
        }
        if entry.ticket.is_dead() || !first.fits(entry) {
            continue;
        }
        if let Some(rows) = entry.rows().filter(|rows| total + rows <= most) {
            total += rows;
            places.push(place);
        }
    }
    (places, total >= most)
}

/// Runs entries that [`together`] has found, and answers their tickets. When what was put together
/// fails, each runs alone: one that the model cannot take fails no other.
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
        ticket.answer(opened.run(plan, tensors.iter(), ticket, &run.stop, Instant::now()));
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
            let living: Vec<_> =
                entries.into_iter().filter(|entry| !entry.ticket.is_dead()).collect();
            if let Some(first) = living.first() {
                first.opened.failed_together(&problem);
            }
            for entry in living {
                self::run(vec![entry]);
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
