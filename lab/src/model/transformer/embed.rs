//! From tokens to the first block's rows, and what position schemes add to attention logits.

use candle_core::Result;
use plateau_common::positions::{Entry, Position};
use plateau_common::tasks::Form;

use super::super::Occasion;
use super::{Stream, Transformer, drop, own_rows, single};
use crate::ops::embedding::{Positional, RowPositions};
use crate::ops::fire::FireParameters;
use crate::ops::rows::RowMap;
use crate::program::{Extent, Graph, Rows, Source, Value};

impl Transformer {
    /// Slot of the update's random positions, where there are such.
    pub(super) fn numbering(&self, graph: &mut Graph, occasion: &Occasion) -> Option<usize> {
        if !occasion.renumbered {
            return None;
        }
        let extent = Extent { rows: Rows::Fixed(occasion.length), width: 1 };
        let positions = self.config.positions.random_positions()?;
        Some(graph.slot(Source::Numbering { positions }, extent))
    }

    /// The rows before the first block.
    pub(super) fn embed(
        &self,
        graph: &mut Graph,
        numbering: Option<usize>,
        occasion: &Occasion,
    ) -> Result<Stream> {
        let mut stream = self.embed_tokens(graph, numbering, occasion)?;
        if self.config.embedding_norm {
            stream.rows = self.norm(graph, "embedding.norm", stream.rows)?;
        }
        if !stream.shared {
            stream.rows = drop(graph, stream.rows, occasion)?;
        }
        Ok(stream)
    }

    fn embed_tokens(
        &self,
        graph: &mut Graph,
        numbering: Option<usize>,
        occasion: &Occasion,
    ) -> Result<Stream> {
        let tokens = graph.parameter("embedding.token")?;
        let (vocabulary, length) = (self.shape.vocabulary, occasion.length);
        if occasion.form == Form::Counts {
            let all = graph.constant_ids("all tokens", 1, (0..vocabulary as u32).collect());
            let known = RowPositions::Known(Vec::new());
            return Ok(Stream {
                rows: graph.scaled_embedding((tokens, self.factor()), all, Positional::None, known)?,
                keys: RowMap::InOrder,
                last: RowMap::Table(graph.slot(Source::LastToken, single(1))),
                length: vocabulary,
                positions: Vec::new(),
                log_counts: Some(graph.slot(Source::LogCounts, single(vocabulary))),
                shared: true,
            });
        }
        let table = self.table(graph, length)?;
        let schemes = self.config.positions.schemes();
        let by_token = |scheme: &&Position| matches!(scheme.entry(), Entry::TokenTable { .. });
        let uses_positions = !self.config.positions.is_none();
        let pairs = if uses_positions { vocabulary * length } else { vocabulary };
        let few = pairs < occasion.examples * length && !occasion.ragged;
        if few && !occasion.dropout && numbering.is_none() && !schemes.iter().any(|own| by_token(&own)) {
            return self.embed_pairs(graph, tokens, table, uses_positions, length);
        }
        let rows = occasion.positions();
        let ids = graph.slot(Source::Tokens, single(rows));
        let positions = match numbering {
            Some(slot) => RowPositions::Slot(slot),
            None if occasion.ragged && uses_positions => {
                RowPositions::Slot(graph.slot(Source::Positions, single(rows)))
            }
            None => RowPositions::Known((0..length as u32).collect()),
        };
        let mut rows = graph.scaled_embedding((tokens, self.factor()), ids, table, positions)?;
        for scheme in schemes.iter().filter(by_token) {
            let table = graph.parameter(&format!("embedding.{}", scheme.word()))?;
            let own = graph.scheme_slot(scheme, occasion.positions());
            let own = graph.embedding(table, own, Positional::None, RowPositions::Known(Vec::new()))?;
            rows = graph.add(rows, own)?;
        }
        Ok(own_rows(rows, occasion.positions()))
    }

    /// What token embeddings are multiplied by.
    fn factor(&self) -> f64 {
        if self.config.scaled_embedding { (self.config.dim as f64).sqrt() } else { 1.0 }
    }

    /// One row for each pair of token and position, or for each token; row `position * vocabulary + token`.
    fn embed_pairs(
        &self,
        graph: &mut Graph,
        tokens: usize,
        table: Positional,
        uses_positions: bool,
        length: usize,
    ) -> Result<Stream> {
        let vocabulary = self.shape.vocabulary;
        let pairs = if uses_positions { vocabulary * length } else { vocabulary } as u32;
        let token = graph.constant_ids(
            "tokens of all pairs",
            1,
            (0..pairs).map(|row| row % vocabulary as u32).collect(),
        );
        let positions: Vec<u32> = (0..pairs).map(|row| row / vocabulary as u32).collect();
        let numbering = if uses_positions { vocabulary } else { 0 };
        let source = if uses_positions { Source::Pairs { vocabulary } } else { Source::Tokens };
        Ok(Stream {
            rows: graph.scaled_embedding(
                (tokens, self.factor()),
                token,
                table,
                RowPositions::Known(positions.clone()),
            )?,
            keys: RowMap::Table(graph.slot(source, single(length))),
            last: RowMap::Table(graph.slot(Source::LastPair { vocabulary: numbering }, single(1))),
            length,
            positions,
            log_counts: None,
            shared: true,
        })
    }

    /// What is added by position; no two schemes do that.
    fn table(&self, graph: &mut Graph, length: usize) -> Result<Positional> {
        let dim = self.config.dim;
        for scheme in self.config.positions.schemes() {
            match scheme.entry() {
                Entry::LearnedTable { .. } => {
                    let name = format!("embedding.{}", parameter_name(scheme));
                    return Ok(Positional::Learned(graph.parameter(&name)?));
                }
                Entry::FixedTable(coordinate) => {
                    let rows = 0..self.positions_of(length);
                    let numbers = rows.flat_map(|row| (0..dim).map(move |index| coordinate(row, index, dim)));
                    let slot = graph.constant_numbers(scheme.word(), dim, numbers.collect());
                    return Ok(Positional::Constant(slot));
                }
                _ => {}
            }
        }
        Ok(Positional::None)
    }

    /// Positions that sequences of `length` tokens may have.
    fn positions_of(&self, length: usize) -> usize {
        self.config.positions.random_positions().map_or(length, |drawn| drawn.max(length))
    }

    /// What is added to the attention logits of each layer.
    pub(super) fn logit_biases(
        &self,
        graph: &mut Graph,
        numbering: Option<usize>,
        occasion: &Occasion,
    ) -> Result<Vec<Option<Value>>> {
        let (heads, length) = (self.config.heads, occasion.length);
        let mut all = vec![None; self.config.layers];
        for entry in self.config.positions.entries() {
            match entry {
                Entry::Fire(fire) => {
                    let positions = numbering
                        .unwrap_or_else(|| graph.constant_ids("positions", 1, (0..length as u32).collect()));
                    for (layer, all) in all.iter_mut().enumerate() {
                        let parameters = fire_parameters(graph, layer)?;
                        let own = graph.fire(parameters, fire.length, positions)?;
                        *all = Some(add_bias(graph, *all, own)?);
                    }
                }
                Entry::FixedBias(bias) => {
                    let own = (0..heads)
                        .flat_map(|head| (0..length).map(move |key| (head, key)))
                        .flat_map(|(head, key)| (0..length).map(move |query| bias(head, heads, query, key)));
                    let slot = graph.constant_numbers("logit bias", length, own.collect());
                    let own = graph.constant(slot)?;
                    for all in &mut all {
                        *all = Some(add_bias(graph, *all, own)?);
                    }
                }
                _ => {}
            }
        }
        Ok(all)
    }
}

/// The sum of what several schemes add.
fn add_bias(graph: &mut Graph, sum: Option<Value>, own: Value) -> Result<Value> {
    match sum {
        Some(sum) => graph.add(sum, own),
        None => Ok(own),
    }
}

/// Name of a scheme's table; that of learned positions is older than the others.
pub(super) fn parameter_name(scheme: &Position) -> &'static str {
    match scheme {
        Position::Learned(_) => "position",
        other => other.word(),
    }
}

fn fire_parameters(graph: &Graph, layer: usize) -> Result<FireParameters> {
    let place = |name: &str| graph.parameter(&format!("blocks.{layer}.attention.fire.{name}"));
    Ok(FireParameters {
        scale: place("scale")?,
        multiplier: place("multiplier")?,
        hidden: [place("hidden")?, place("hidden_bias")?],
        output: [place("output")?, place("output_bias")?],
    })
}
