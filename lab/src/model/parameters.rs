//! The ordered store of a cohort's parameters, each `[K, …]`.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use plateau_common::random::StreamFamily;

/// How a parameter's numbers are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initial {
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform between minus and plus this bound.
    Uniform(f64),
    /// All equal to this.
    Constant(f64),
}

/// One parameter of a model, without the replica dimension.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterSpecification {
    /// Dotted name; what stands before the first dots is the part a norm is reported for.
    pub name: String,
    /// Extents of one replica's.
    pub shape: Vec<usize>,
    /// Its start.
    pub initial: Initial,
}

impl ParameterSpecification {
    /// The starting values of one replica: a function of the trial's seed and the parameter's place in the model.
    pub fn draw(&self, family: &StreamFamily, place: u64) -> Vec<f64> {
        let count = self.shape.iter().product();
        let mut stream = family.at(place);
        match self.initial {
            Initial::Normal(deviation) => (0..count).map(|_| deviation * stream.normal()).collect(),
            Initial::Uniform(bound) => (0..count).map(|_| bound * (2.0 * stream.unit() - 1.0)).collect(),
            Initial::Constant(value) => vec![value; count],
        }
    }
}

/// Parameters of K replicas, in the model's order.
#[derive(Clone)]
pub struct Parameters {
    names: Vec<String>,
    places: BTreeMap<String, usize>,
    tensors: Vec<Tensor>,
}

impl Parameters {
    /// Parameters that gradients are taken for, from tensors `[K, …]` in the model's order.
    pub fn trainable(named: Vec<(String, Tensor)>) -> Result<Self> {
        let (names, tensors): (Vec<_>, Vec<_>) = named.into_iter().unzip();
        let tensors = tensors.iter().map(|tensor| Ok(Var::from_tensor(tensor)?.into_inner()));
        let tensors: Vec<Tensor> = tensors.collect::<Result<_>>()?;
        Ok(Self::from_tensors(names.into_iter().zip(tensors).collect()))
    }

    /// Takes tensors `[K, …]` in the model's order as they are.
    pub fn from_tensors(named: Vec<(String, Tensor)>) -> Self {
        let (names, tensors): (Vec<String>, Vec<Tensor>) = named.into_iter().unzip();
        let places = names.iter().enumerate().map(|(place, name)| (name.clone(), place)).collect();
        Parameters { names, places, tensors }
    }

    /// Fresh parameters: replica k draws from `seeds[k]`.
    pub fn initial(
        specification: &[ParameterSpecification],
        seeds: &[u64],
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let families: Vec<_> = seeds.iter().map(|seed| StreamFamily::new(*seed, "initialisation")).collect();
        let named = specification.iter().enumerate().map(|(place, parameter)| {
            let values: Vec<f64> =
                families.iter().flat_map(|family| parameter.draw(family, place as u64)).collect();
            let mut shape = vec![seeds.len()];
            shape.extend(&parameter.shape);
            Ok((
                parameter.name.clone(),
                Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?,
            ))
        });
        Self::trainable(named.collect::<Result<_>>()?)
    }

    /// The same numbers, for a forward pass that records nothing.
    pub fn frozen(&self) -> Self {
        let tensors = self.tensors.iter().map(Tensor::detach).collect();
        Parameters { names: self.names.clone(), places: self.places.clone(), tensors }
    }

    /// The parameter of this name, `[K, …]`.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        match self.places.get(name) {
            Some(place) => Ok(&self.tensors[*place]),
            None => candle_core::bail!("the model has no parameter `{name}`"),
        }
    }

    /// Overwrites a parameter with `[K, …]` of its shape (hand-built weights).
    pub fn set(&mut self, name: &str, values: &Tensor) -> Result<()> {
        let Some(place) = self.places.get(name) else {
            candle_core::bail!("the model has no parameter `{name}`");
        };
        let old = &self.tensors[*place];
        if old.shape() != values.shape() {
            candle_core::bail!("`{name}` has the shape {:?}, not {:?}", old.shape(), values.shape());
        }
        self.tensors[*place] = Var::from_tensor(&values.to_dtype(old.dtype())?)?.into_inner();
        Ok(())
    }

    /// Names and tensors in the model's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.tensors)
    }

    /// Number of replicas, K.
    pub fn replicas(&self) -> usize {
        self.tensors.first().map_or(0, |tensor| tensor.dims().first().copied().unwrap_or(0))
    }

    /// Numbers of one replica, `(name, shape, values)`, in the model's order.
    pub fn of_replica(&self, replica: usize) -> Result<Vec<(String, Tensor)>> {
        self.iter()
            .map(|(name, tensor)| {
                Ok((name.to_owned(), tensor.get(replica)?.to_device(&Device::Cpu)?.detach()))
            })
            .collect()
    }
}
