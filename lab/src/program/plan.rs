//! From a recording to a program: order, backward pass, lifetimes, places.

use candle_core::Result;
use plateau_common::positions::Position;

use super::graph::{Graph, Node, SlotSpecification, Value};
use super::{Extent, Rows};
use crate::model::ParameterSpecification;

/// Places begin at multiples of this many numbers: a cache line of 32-bit floats.
const ALIGNMENT: usize = 16;

/// Where a buffer lies in the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First number.
    pub offset: usize,
    /// Rows and width.
    pub extent: Extent,
}

/// Where a gradient goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its buffer.
    pub place: Place,
    /// Whether it is added to what is there (else the buffer holds rubbish).
    pub accumulate: bool,
    /// Whether later micro-batches add to it (else every micro-batch begins anew).
    pub over_micro_batches: bool,
}

/// The buffers of one operation.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Inputs, in the operation's order.
    pub inputs: Vec<Place>,
    /// Result.
    pub output: Place,
    /// What the forward pass keeps for the backward pass.
    pub saved: Vec<Place>,
    /// Gradient of the result; for the objective an empty place.
    pub gradient: Place,
    /// Where gradients of the inputs go; `None` where the program hands the result's gradient on.
    pub to_inputs: Vec<Option<Target>>,
    /// Where the result's gradient must be added because handing it on would lose another contribution.
    pub add_through: Option<Target>,
    /// Parameters: offset and count in the arena.
    pub parameters: Vec<(usize, usize)>,
    /// Whether a parameter's gradient is added to another operation's contribution.
    pub to_parameters: Vec<bool>,
    /// Whether the operation has a backward pass: not where it is detached, or its result reaches the loss through what is.
    pub has_backward: bool,
}

/// Where the parameters lie in a replica's arena: one after another, in the model's order, without gaps.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// The parameters.
    pub parameters: Vec<ParameterSpecification>,
    /// First number of each, and the total behind the last.
    pub offsets: Vec<usize>,
}

impl Layout {
    /// Lays parameters out.
    pub fn new(parameters: Vec<ParameterSpecification>) -> Self {
        let mut offsets = vec![0];
        for parameter in &parameters {
            offsets.push(offsets[offsets.len() - 1] + parameter.shape.iter().product::<usize>());
        }
        Layout { parameters, offsets }
    }

    /// Numbers of all parameters.
    pub fn count(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// Numbers `offset..end` of parameter number `place`.
    pub fn range(&self, place: usize) -> std::ops::Range<usize> {
        self.offsets[place]..self.offsets[place + 1]
    }
}

/// How sequences of lengths of their own are run: token by token, whole sequences at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ragged {
    /// Tokens of the longest.
    pub longest: usize,
    /// A micro-batch ends with the sequence that brings it to about so many tokens.
    pub pace: usize,
}

impl Ragged {
    /// Most tokens of a micro-batch: parts of equal size are at most half as long again as the pace, and end with a sequence.
    pub fn most(self) -> usize {
        self.pace + self.pace.div_ceil(2) + self.longest
    }
}

/// A planned model: what is done to which numbers, in which order.
#[derive(Debug)]
pub struct Program {
    /// The operations in the order of the forward pass: first those that do not depend on the examples.
    pub nodes: Vec<Node>,
    /// Their buffers, in the same order.
    pub ports: Vec<Ports>,
    /// How many nodes do not depend on the examples.
    pub fixed: usize,
    /// The parameters' places.
    pub layout: Layout,
    /// Inputs.
    pub slots: Vec<SlotSpecification>,
    /// Position schemes that slots refer to.
    pub schemes: Vec<Position>,
    /// Parameters that no gradient reaches, as places: their gradients are zeroed by who runs the program.
    pub unreached: Vec<usize>,
    /// The model's outputs.
    pub outputs: Place,
    /// Most examples of a micro-batch.
    pub micro_batch: usize,
    /// Where sequences have lengths of their own: then an example is one token.
    pub ragged: Option<Ragged>,
    /// Numbers of the workspace.
    pub workspace: usize,
    /// Named values a trace may look at after the forward pass; empty unless traced.
    pub named: Vec<(String, Place)>,
    /// The value the model puts out, for interpreters.
    pub(super) output_value: Value,
    /// Extents of all values, for interpreters.
    pub(super) values: Vec<Extent>,
}

impl Program {
    /// Rows of outputs per example.
    pub fn output_rows(&self) -> usize {
        self.outputs.extent.rows.count(1)
    }

    /// Rows and width of a value.
    pub fn extent(&self, value: Value) -> Extent {
        self.values[value.0]
    }

    /// The nodes whose results do not depend on the examples, with their buffers.
    pub fn fixed_nodes(&self) -> impl DoubleEndedIterator<Item = (&Node, &Ports)> {
        self.nodes.iter().zip(&self.ports).take(self.fixed)
    }

    /// The nodes of every micro-batch, with their buffers; the last is the objective.
    pub fn example_nodes(&self) -> impl DoubleEndedIterator<Item = (&Node, &Ports)> {
        self.nodes[self.fixed..].iter().zip(&self.ports[self.fixed..])
    }
}

/// A buffer while lifetimes are collected: live from `from` to `to`, both included.
struct Buffer {
    extent: Extent,
    from: usize,
    to: usize,
}

struct Planner<'a> {
    graph: &'a Graph,
    order: Vec<usize>,
    buffers: Vec<Buffer>,
    /// Buffer of each value, and of its gradient.
    value: Vec<usize>,
    gradient: Vec<Option<usize>>,
}

/// Ports in terms of buffers.
struct Draft {
    saved: Vec<usize>,
    to_inputs: Vec<Option<(usize, bool)>>,
    add_through: Option<usize>,
    to_parameters: Vec<bool>,
    has_backward: bool,
}

pub(super) fn plan(graph: Graph, outputs: Value, micro_batch: usize, traced: bool) -> Result<Program> {
    let is_fixed = |node: &Node| !graph.extent(node.output).rows.is_per_example();
    let mut order: Vec<usize> = (0..graph.nodes.len()).filter(|at| is_fixed(&graph.nodes[*at])).collect();
    let fixed = order.len();
    order.extend((0..graph.nodes.len()).filter(|at| !is_fixed(&graph.nodes[*at])));
    check(&graph, &order, fixed)?;
    let mut planner = Planner {
        value: Vec::new(),
        gradient: vec![None; graph.values.len()],
        buffers: Vec::new(),
        order,
        graph: &graph,
    };
    planner.forward(outputs, traced);
    let drafts = planner.backward();
    let (offsets, workspace) = planner.place(micro_batch);
    let place = |buffer: usize| Place { offset: offsets[buffer], extent: planner.buffers[buffer].extent };
    let layout = Layout::new(graph.parameters.clone());
    let mut ports = Vec::new();
    for (position, draft) in drafts.iter().enumerate() {
        let node = &graph.nodes[planner.order[position]];
        let per_example = position >= fixed;
        let target = |(buffer, accumulate): (usize, bool)| {
            let place = place(buffer);
            let over_micro_batches = per_example && !place.extent.rows.is_per_example();
            Target { place, accumulate, over_micro_batches }
        };
        ports.push(Ports {
            inputs: node.inputs.iter().map(|input| place(planner.value[input.0])).collect(),
            output: place(planner.value[node.output.0]),
            saved: draft.saved.iter().map(|buffer| place(*buffer)).collect(),
            gradient: planner.gradient[node.output.0]
                .map_or(Place { offset: 0, extent: Extent { rows: Rows::Fixed(0), width: 0 } }, place),
            to_inputs: draft.to_inputs.iter().map(|slot| slot.map(target)).collect(),
            add_through: draft.add_through.map(|buffer| target((buffer, true))),
            parameters: node
                .parameters
                .iter()
                .map(|parameter| (layout.offsets[*parameter], layout.range(*parameter).len()))
                .collect(),
            to_parameters: draft.to_parameters.clone(),
            has_backward: draft.has_backward,
        });
    }
    let mut reached = vec![false; graph.parameters.len()];
    for (position, _) in drafts.iter().enumerate().filter(|(_, draft)| draft.has_backward) {
        graph.nodes[planner.order[position]].parameters.iter().for_each(|place| reached[*place] = true);
    }
    let unreached = (0..reached.len()).filter(|place| !reached[*place]).collect();
    let named = match traced {
        true => {
            graph.named.iter().map(|(name, value)| (name.clone(), place(planner.value[value.0]))).collect()
        }
        false => Vec::new(),
    };
    let outputs_place = place(planner.value[outputs.0]);
    let order = planner.order;
    let mut nodes: Vec<Option<Node>> = graph.nodes.into_iter().map(Some).collect();
    let nodes = order.iter().filter_map(|at| nodes[*at].take()).collect();
    Ok(Program {
        nodes,
        ports,
        fixed,
        layout,
        slots: graph.slots,
        schemes: graph.schemes,
        unreached,
        outputs: outputs_place,
        micro_batch,
        ragged: None,
        workspace,
        named,
        output_value: outputs,
        values: graph.values,
    })
}

/// Refuses recordings whose order or gradients would be wrong.
fn check(graph: &Graph, order: &[usize], fixed: usize) -> Result<()> {
    let mut made = vec![false; graph.values.len()];
    let mut read = vec![false; graph.values.len()];
    for (position, at) in order.iter().enumerate() {
        let node = &graph.nodes[*at];
        let name = node.operation.name();
        for (number, input) in node.inputs.iter().enumerate() {
            if node.inputs[..number].contains(input) {
                candle_core::bail!("operation {position}, {name}, is given the same value twice");
            }
            if !made[input.0] {
                candle_core::bail!("operation {position}, {name}, reads a value before it is made");
            }
            read[input.0] = true;
        }
        let varying = node.slots.iter().any(|slot| graph.slots[*slot].extent.rows.is_per_example());
        if position < fixed && varying {
            candle_core::bail!("operation {position}, {name}, has fixed rows but an input of every example");
        }
        made[node.output.0] = true;
    }
    for (position, at) in order.iter().enumerate() {
        let node = &graph.nodes[*at];
        let is_objective = position + 1 == order.len();
        if read[node.output.0] == is_objective {
            candle_core::bail!("operation {position}, {}: its result is not used", node.operation.name());
        }
    }
    Ok(())
}

impl Planner<'_> {
    fn node(&self, position: usize) -> &Node {
        &self.graph.nodes[self.order[position]]
    }

    /// Time of a node's backward pass; its position is the time of its forward pass.
    fn backward_time(&self, position: usize) -> usize {
        2 * self.order.len() - 1 - position
    }

    fn buffer(&mut self, extent: Extent, from: usize, to: usize) -> usize {
        // What all micro-batches share lives throughout.
        let (from, to) = if extent.rows.is_per_example() { (from, to) } else { (0, 2 * self.order.len()) };
        self.buffers.push(Buffer { extent, from, to });
        self.buffers.len() - 1
    }

    fn extend(&mut self, buffer: usize, to: usize) {
        let buffer = &mut self.buffers[buffer];
        buffer.to = buffer.to.max(to);
    }

    /// Buffers of all values.
    fn forward(&mut self, outputs: Value, traced: bool) {
        self.value = vec![usize::MAX; self.graph.values.len()];
        for position in 0..self.order.len() {
            let (output, inputs) = (self.node(position).output, self.node(position).inputs.clone());
            self.value[output.0] = self.buffer(self.graph.extent(output), position, position);
            let detached = self.node(position).detached;
            for (number, input) in inputs.iter().enumerate() {
                let kept = !detached && self.node(position).operation.keeps_input(number);
                let until = if kept { self.backward_time(position) } else { position };
                self.extend(self.value[input.0], until);
            }
            if !detached && self.node(position).operation.keeps_output() {
                self.extend(self.value[output.0], self.backward_time(position));
            }
        }
        self.extend(self.value[outputs.0], self.order.len());
        if traced {
            for (_, value) in &self.graph.named {
                let buffer = self.value[value.0];
                self.extend(buffer, self.order.len());
            }
        }
    }

    /// Buffers of all gradients, in the order of the backward pass; the drafts in forward order.
    fn backward(&mut self) -> Vec<Draft> {
        let mut with_gradient = vec![false; self.graph.parameters.len()];
        let mut made_detached = vec![false; self.graph.values.len()];
        for node in &self.graph.nodes {
            made_detached[node.output.0] = node.detached;
        }
        let mut drafts = Vec::new();
        for position in (0..self.order.len()).rev() {
            let now = self.backward_time(position);
            let node = &self.graph.nodes[self.order[position]];
            let gradient = self.gradient[node.output.0];
            let is_objective = position + 1 == self.order.len();
            if node.detached || (gradient.is_none() && !is_objective) {
                let saved = node.operation.saved().into_iter();
                drafts.push(Draft {
                    saved: saved.map(|extent| self.buffer(extent, position, position)).collect(),
                    to_inputs: vec![None; node.inputs.len()],
                    add_through: None,
                    to_parameters: vec![true; node.parameters.len()],
                    has_backward: false,
                });
                continue;
            }
            if let Some(gradient) = gradient {
                self.extend(gradient, now);
            }
            let saved =
                node.operation.saved().into_iter().map(|extent| self.buffer(extent, position, now)).collect();
            let passes = node.operation.passes_to();
            let (mut to_inputs, mut add_through) = (Vec::new(), None);
            for (number, input) in node.inputs.iter().enumerate() {
                let known = self.gradient[input.0];
                if made_detached[input.0] && node.operation.may_skip(number) {
                    to_inputs.push(None);
                    continue;
                }
                if passes == Some(number) {
                    match known {
                        None => self.gradient[input.0] = gradient,
                        Some(buffer) => {
                            self.extend(buffer, now);
                            add_through = Some(buffer);
                        }
                    }
                    to_inputs.push(None);
                    continue;
                }
                let buffer = match known {
                    Some(buffer) => buffer,
                    None => self.buffer(self.graph.extent(*input), now, now),
                };
                self.extend(buffer, now);
                self.gradient[input.0] = Some(buffer);
                to_inputs.push(Some((buffer, known.is_some())));
            }
            let to_parameters = node
                .parameters
                .iter()
                .map(|parameter| std::mem::replace(&mut with_gradient[*parameter], true))
                .collect();
            drafts.push(Draft { saved, to_inputs, add_through, to_parameters, has_backward: true });
        }
        drafts.reverse();
        drafts
    }

    /// Offsets of all buffers, largest first at the lowest place free throughout their life; and the space needed.
    fn place(&self, micro_batch: usize) -> (Vec<usize>, usize) {
        let size = |buffer: &Buffer| buffer.extent.count(micro_batch).next_multiple_of(ALIGNMENT);
        let mut by_size: Vec<usize> = (0..self.buffers.len()).collect();
        by_size.sort_by_key(|buffer| (std::cmp::Reverse(size(&self.buffers[*buffer])), *buffer));
        let mut offsets = vec![0; self.buffers.len()];
        let mut placed: Vec<usize> = Vec::new();
        let mut end = 0;
        for at in by_size {
            let (buffer, own) = (&self.buffers[at], size(&self.buffers[at]));
            let mut taken: Vec<(usize, usize)> = placed
                .iter()
                .filter(|other| {
                    self.buffers[**other].from <= buffer.to && buffer.from <= self.buffers[**other].to
                })
                .map(|other| (offsets[*other], offsets[*other] + size(&self.buffers[*other])))
                .collect();
            taken.sort_unstable();
            let mut offset = 0;
            for (start, stop) in taken {
                if offset + own <= start {
                    break;
                }
                offset = offset.max(stop);
            }
            offsets[at] = offset;
            end = end.max(offset + own);
            placed.push(at);
        }
        (offsets, end)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Extent, Rows};
    use super::{Buffer, Graph, Planner};

    /// Buffers that live at the same time never share a place; those that do not may.
    #[test]
    fn places_do_not_overlap_while_both_are_live() {
        let graph = Graph::new(Vec::new());
        let extent = |rows: usize| Extent { rows: Rows::PerExample(rows), width: 16 };
        let lives = [(3, 0, 4), (1, 1, 2), (2, 3, 6), (1, 5, 9), (3, 7, 9), (2, 0, 9)];
        let buffers = lives
            .iter()
            .map(|(rows, from, to)| Buffer { extent: extent(*rows), from: *from, to: *to })
            .collect();
        let planner =
            Planner { graph: &graph, order: Vec::new(), buffers, value: Vec::new(), gradient: Vec::new() };
        let (offsets, end) = planner.place(2);
        for a in 0..lives.len() {
            for b in 0..a {
                let at_once = lives[a].1 <= lives[b].2 && lives[b].1 <= lives[a].2;
                let range = |at: usize| offsets[at]..offsets[at] + lives[at].0 * 32;
                let overlap = range(a).start < range(b).end && range(b).start < range(a).end;
                assert!(!(at_once && overlap), "{a} and {b}");
            }
        }
        assert!(end < lives.iter().map(|(rows, _, _)| rows * 32).sum::<usize>());
    }
}
