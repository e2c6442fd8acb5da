//! Names, shapes and starts of a transformer's parameters.

use plateau_common::config::{Activation, Head, Norm, TransformerConfig};
use plateau_common::positions::Entry;
use plateau_common::tasks::TaskShape;

use super::super::initialise::{self, Role};
use super::super::parameters::{Initial, ParameterSpecification};
use super::embed::parameter_name;

/// Every parameter, in an order that never changes.
pub(super) fn parameters(config: &TransformerConfig, shape: &TaskShape) -> Vec<ParameterSpecification> {
    let dim = config.dim;
    let mut all = Specification { config, list: Vec::new() };
    let embedding = |rows| initialise::weight(Role::Embedding { rows }, config);
    all.push("embedding.token".to_owned(), &[shape.vocabulary, dim], embedding(shape.vocabulary));
    for scheme in config.positions.schemes() {
        let rows = match scheme.entry() {
            Entry::LearnedTable { rows } => rows.unwrap_or(shape.length),
            Entry::TokenTable { rows } => rows,
            _ => continue,
        };
        all.push(format!("embedding.{}", parameter_name(scheme)), &[rows, dim], embedding(rows));
    }
    if config.embedding_norm {
        all.norm("embedding.norm");
    }
    for layer in 0..config.layers {
        all.block(&format!("blocks.{layer}"));
    }
    if config.norm == Norm::Pre {
        all.norm("final_norm");
    }
    if config.head == Head::Transform {
        all.mlp("head.mlp");
        all.norm("head.norm");
        all.map("head.map", Role::Square, [dim, dim], config.mlp_bias);
    }
    let outputs = shape.output.width();
    let role = Role::ReadOut { outputs };
    if !config.tied {
        all.push("read_out.weight".to_owned(), &[dim, outputs], initialise::weight(role, config));
    }
    if config.read_out_bias {
        all.push("read_out.bias".to_owned(), &[outputs], initialise::bias(role, config));
    }
    all.list
}

/// Collects the parameters in order.
struct Specification<'a> {
    config: &'a TransformerConfig,
    list: Vec<ParameterSpecification>,
}

impl Specification<'_> {
    fn push(&mut self, name: String, shape: &[usize], initial: Initial) {
        self.list.push(ParameterSpecification { name, shape: shape.to_vec(), initial });
    }

    fn map(&mut self, name: &str, role: Role, shape: [usize; 2], bias: bool) {
        self.push(name.to_owned(), &shape, initialise::weight(role, self.config));
        if bias {
            self.push(format!("{name}_bias"), &shape[1..], initialise::bias(role, self.config));
        }
    }

    fn norm(&mut self, name: &str) {
        self.push(format!("{name}.gain"), &[self.config.dim], Initial::Constant(1.0));
        self.push(format!("{name}.bias"), &[self.config.dim], Initial::Constant(0.0));
    }

    fn mlp(&mut self, name: &str) {
        let TransformerConfig { dim, mlp_dim, mlp_bias, activation, .. } = *self.config;
        if activation == Activation::Geglu {
            self.map(&format!("{name}.gate"), Role::Up, [dim, mlp_dim], mlp_bias);
        }
        self.map(&format!("{name}.up"), Role::Up, [dim, mlp_dim], mlp_bias);
        self.map(&format!("{name}.down"), Role::Down, [mlp_dim, dim], mlp_bias);
    }

    fn block(&mut self, name: &str) {
        let (dim, bias, normed) =
            (self.config.dim, self.config.attention_bias, self.config.norm != Norm::None);
        if normed {
            self.norm(&format!("{name}.norm1"));
        }
        let maps = [
            ("query", Role::QueryOrKey),
            ("key", Role::QueryOrKey),
            ("value", Role::Value),
            ("output", Role::AttentionOutput),
        ];
        for (map, role) in maps {
            self.map(&format!("{name}.attention.{map}"), role, [dim, dim], bias);
        }
        self.fire(&format!("{name}.attention.fire"));
        if normed {
            self.norm(&format!("{name}.norm2"));
        }
        self.mlp(&format!("{name}.mlp"));
    }

    /// The perceptron of FIRE, where the model has it: c starts at 0.1, m at 1 (McLeish et al. 2024, released code).
    fn fire(&mut self, name: &str) {
        for entry in self.config.positions.entries() {
            let Entry::Fire(fire) = entry else { continue };
            let heads = self.config.heads;
            self.push(format!("{name}.scale"), &[1], Initial::Constant(0.1));
            self.push(format!("{name}.multiplier"), &[1], Initial::Constant(1.0));
            let perceptron = |inputs, outputs| Role::Perceptron { inputs, outputs };
            for (map, inputs, outputs) in [("hidden", 1, fire.hidden), ("output", fire.hidden, heads)] {
                self.map(&format!("{name}.{map}"), perceptron(inputs, outputs), [inputs, outputs], true);
            }
        }
    }
}
