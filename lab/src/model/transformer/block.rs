//! One block: attention and MLP around the residual stream.

use candle_core::Result;
use plateau_common::config::Norm;
use plateau_common::positions::Entry;
use plateau_common::tasks::ReadOut;

use super::super::Occasion;
use super::{Place, Stream, Transformer, drop, own_rows};
use crate::ops::attention::AttentionPlan;
use crate::ops::rows::RowMap;
use crate::program::{Extent, Graph, Rows, Source, Value};

impl Transformer {
    /// One block.
    pub(super) fn block(
        &self,
        graph: &mut Graph,
        place: Place,
        stream: Stream,
        occasion: &Occasion,
    ) -> Result<Stream> {
        let (config, read) = (&self.config, place.read);
        let name = format!("blocks.{}", place.layer);
        let queries = if read == ReadOut::Last { 1 } else { stream.length };
        let attended = self.attend(graph, &name, &stream, (place, queries), occasion)?;
        let states = match (read, stream.shared) {
            (ReadOut::Last, _) => graph.select(stream.rows, stream.last, 1)?,
            (ReadOut::Every, true) => graph.select(stream.rows, stream.keys, queries)?,
            (ReadOut::Every, false) => stream.rows,
        };
        let branch = self.map(graph, &format!("{name}.attention.output"), config.attention_bias, attended)?;
        let branch = drop(graph, branch, occasion)?;
        let mut states = graph.add(states, branch)?;
        if config.norm == Norm::Post {
            states = self.norm(graph, &format!("{name}.norm1"), states)?;
        }
        let asking = match config.norm {
            Norm::Pre => self.norm(graph, &format!("{name}.norm2"), states)?,
            Norm::Post | Norm::None => states,
        };
        let branch = self.mlp(graph, &format!("{name}.mlp"), asking, occasion)?;
        let branch = drop(graph, branch, occasion)?;
        states = graph.add(states, branch)?;
        if config.norm == Norm::Post {
            states = self.norm(graph, &format!("{name}.norm2"), states)?;
        }
        let mut next = own_rows(states, queries);
        if read == ReadOut::Every && stream.log_counts.is_some() {
            // In count space the last position is one of the keys, not the last of them.
            let (RowMap::Table(last) | RowMap::OwnChosen(last)) = stream.last else {
                candle_core::bail!("counts without their last token");
            };
            next.last = RowMap::OwnChosen(last);
            next.log_counts = stream.log_counts;
        }
        Ok(next)
    }

    /// What the asked positions attend to, before the output map.
    fn attend(
        &self,
        graph: &mut Graph,
        name: &str,
        stream: &Stream,
        (place, queries): (Place, usize),
        occasion: &Occasion,
    ) -> Result<Value> {
        let config = &self.config;
        let normed = match config.norm {
            Norm::Pre => self.norm(graph, &format!("{name}.norm1"), stream.rows)?,
            Norm::Post | Norm::None => stream.rows,
        };
        let asked = if place.read == ReadOut::Last { stream.last } else { stream.keys };
        // Queries are computed per row, or per asked position, whichever is fewer.
        let selects = occasion.examples * queries < graph.extent(normed).rows.count(occasion.examples);
        let (asking, query_rows) =
            if selects { (graph.select(normed, asked, queries)?, RowMap::Own) } else { (normed, asked) };
        let bias = config.attention_bias;
        let mut q = self.map(graph, &format!("{name}.attention.query"), bias, asking)?;
        let mut k = self.map(graph, &format!("{name}.attention.key"), bias, normed)?;
        let v = self.map(graph, &format!("{name}.attention.value"), bias, normed)?;
        for entry in config.positions.entries() {
            if let Entry::Rotation { base } = entry {
                let own =
                    if selects { vec![stream.length as u32 - 1; queries] } else { stream.positions.clone() };
                q = graph.rotary(q, config.heads, base, &own)?;
                k = graph.rotary(k, config.heads, base, &stream.positions)?;
            }
        }
        let ragged = occasion.ragged.then_some(occasion.length);
        let dropout = occasion.dropout.then(|| {
            let heads = config.heads;
            let width = if occasion.ragged { occasion.length } else { stream.length };
            let extent = Extent { rows: Rows::PerExample(queries * heads), width };
            graph.slot(Source::AttentionDropout { heads }, extent)
        });
        graph.name(format!("{name}.attention.query"), q);
        graph.name(format!("{name}.attention.key"), k);
        let plan = AttentionPlan {
            heads: config.heads,
            queries,
            keys: stream.length,
            query_rows,
            key_rows: stream.keys,
            causal: config.causal,
            ragged,
            key_bias: stream.log_counts,
            dropout,
            logit_bias: place.logit_bias,
        };
        graph.attention(q, k, v, plan)
    }
}
