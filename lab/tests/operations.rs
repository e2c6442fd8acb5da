//! Every fused operation against its plain form, and its gradients against central differences.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use plateau_common::random::Stream;
use plateau_lab::ops_old::attention::{self, Plan};
use plateau_lab::ops_old::gather::{self, Index};
use plateau_lab::ops_old::layer_norm;
use plateau_lab::ops_old::linear::{self, WeightLayout};
use plateau_lab::ops_old::loss::{self, Answers, Criterion};
use plateau_lab::ops_old::rotary::{self, Rotation};
use plateau_lab::ops_old::{activation, sum};
use support::{check_gradients, difference, numbers, random, weighted_sum};

/// Fused and plain results agree in f64 and f32.
fn check_forms(
    inputs: &[Tensor],
    fused: impl Fn(&[Tensor]) -> Result<Tensor>,
    plain: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 2e-5)] {
        let inputs: Vec<Tensor> = inputs.iter().map(|input| input.to_dtype(dtype).unwrap()).collect();
        let (fused, plain) = (fused(&inputs).unwrap(), plain(&inputs).unwrap());
        assert_eq!(fused.dtype(), plain.dtype());
        let scale = numbers(&plain).iter().fold(1.0f64, |scale, value| scale.max(value.abs()));
        let error = difference(&fused, &plain) / scale;
        assert!(error < tolerance, "{dtype:?}: fused and plain differ by {error}");
    }
}

#[test]
fn linear_maps() {
    let mut stream = Stream::new(1, "test", 0);
    for (layout, [rows, input, output]) in [
        (WeightLayout::InOut, [5, 3, 4]),
        (WeightLayout::OutIn, [1, 7, 2]),
        (WeightLayout::InOut, [37, 16, 33]),
    ] {
        let weight = if layout == WeightLayout::InOut { [2, input, output] } else { [2, output, input] };
        let inputs = [
            random(&mut stream, &[2, rows, input], 1.0),
            random(&mut stream, &weight, 1.0),
            random(&mut stream, &[2, output], 1.0),
        ];
        check_forms(
            &inputs,
            |x| linear::linear(&x[0], &x[1], Some(&x[2]), layout),
            |x| linear::reference(&x[0], &x[1], Some(&x[2]), layout),
        );
        check_forms(
            &inputs,
            |x| linear::linear(&x[0], &x[1], None, layout),
            |x| linear::reference(&x[0], &x[1], None, layout),
        );
        if rows < 10 {
            check_gradients(&inputs, |x| weighted_sum(&linear::linear(&x[0], &x[1], Some(&x[2]), layout)?));
            check_gradients(&inputs[..2], |x| weighted_sum(&linear::linear(&x[0], &x[1], None, layout)?));
        }
    }
}

#[test]
fn gathered_rows_and_their_repetitions() {
    let table = random(&mut Stream::new(2, "test", 0), &[2, 4, 3], 1.0);
    let index = Index::new(vec![0, 3, 3, 1, 2, 2, 2, 0], 4).unwrap();
    check_forms(
        std::slice::from_ref(&table),
        |x| gather::gather(&x[0], &index),
        |x| gather::reference(&x[0], &index),
    );
    check_gradients(&[table], |x| weighted_sum(&gather::gather(&x[0], &index)?));
    assert!(Index::new(vec![4], 4).is_err());
}

#[test]
fn sums_and_constant_factors() {
    let mut stream = Stream::new(3, "test", 0);
    let inputs = [random(&mut stream, &[2, 3, 4], 1.0), random(&mut stream, &[2, 3, 4], 1.0)];
    check_gradients(&inputs, |x| weighted_sum(&sum::add(&x[0], &x[1])?));
    let factors = inputs[1].clone();
    check_gradients(&inputs[..1], |x| weighted_sum(&sum::scale(&x[0], &factors)?));
}

#[test]
fn layer_norms() {
    let mut stream = Stream::new(4, "test", 0);
    for width in [1, 5, 16, 19] {
        let inputs = [
            random(&mut stream, &[2, 3, width], 2.0),
            random(&mut stream, &[2, width], 1.0),
            random(&mut stream, &[2, width], 1.0),
        ];
        check_forms(
            &inputs,
            |x| layer_norm::layer_norm(&x[0], &x[1], &x[2]),
            |x| layer_norm::reference(&x[0], &x[1], &x[2]),
        );
        check_gradients(&inputs, |x| weighted_sum(&layer_norm::layer_norm(&x[0], &x[1], &x[2])?));
    }
}

#[test]
fn activations() {
    let mut stream = Stream::new(5, "test", 0);
    let inputs = [random(&mut stream, &[2, 4, 9], 3.0), random(&mut stream, &[2, 4, 9], 1.0)];
    check_forms(&inputs, |x| activation::relu(&x[0]), |x| x[0].relu());
    check_forms(&inputs, |x| activation::gelu(&x[0]), |x| x[0].gelu_erf());
    check_forms(&inputs, |x| activation::geglu(&x[0], &x[1]), |x| x[0].gelu_erf()?.mul(&x[1]));
    check_gradients(&inputs[..1], |x| weighted_sum(&activation::relu(&x[0])?));
    check_gradients(&inputs[..1], |x| weighted_sum(&activation::gelu(&x[0])?));
    check_gradients(&inputs, |x| weighted_sum(&activation::geglu(&x[0], &x[1])?));
}

#[test]
fn rotary_positions() {
    let x = random(&mut Stream::new(6, "test", 0), &[2, 5, 8], 1.0);
    let rotation = Rotation { heads: 2, positions: Arc::new(vec![0, 1, 7, 1, 40]) };
    check_forms(
        std::slice::from_ref(&x),
        |x| rotary::rotary(&x[0], &rotation),
        |x| rotary::reference(&x[0], &rotation),
    );
    check_gradients(std::slice::from_ref(&x), |x| weighted_sum(&rotary::rotary(&x[0], &rotation)?));
    // Position 0 is not turned; lengths stay.
    let turned = rotary::rotary(&x, &rotation).unwrap();
    assert_eq!(numbers(&turned.get(0).unwrap().get(0).unwrap()), numbers(&x.get(0).unwrap().get(0).unwrap()));
    let lengths = |tensor: &Tensor| tensor.sqr().unwrap().sum(2).unwrap();
    assert!(difference(&lengths(&turned), &lengths(&x)) < 1e-12);
}

/// A plan for 2 replicas of 3 examples, with rows that examples share.
fn plan(stream: &mut Stream, queries: usize, keys: usize, rows: u32, causal: bool) -> Plan {
    let mut draw =
        |count: usize| Index::new((0..count).map(|_| stream.below(rows)).collect(), rows as usize).unwrap();
    let (query_rows, key_rows) = (draw(2 * 3 * queries), draw(2 * 3 * keys));
    Plan {
        heads: 2,
        examples: 3,
        queries,
        keys,
        query_rows,
        key_rows,
        causal,
        bias: None,
        dropout: None,
        keys_in_order: false,
    }
}

#[test]
fn attention_in_all_its_forms() {
    let mut stream = Stream::new(7, "test", 0);
    for (queries, keys, causal, biased, dropped) in [
        (1, 4, true, false, false),
        (4, 4, true, false, true),
        (4, 4, false, false, false),
        (1, 5, false, true, true),
    ] {
        let mut plan = plan(&mut stream, queries, keys, 6, causal);
        if biased {
            let hidden =
                |index: usize| if index % keys == 1 { f64::NEG_INFINITY } else { (index as f64).sin() };
            let bias: Vec<f64> = (0..2 * 3 * keys).map(hidden).collect();
            plan.bias = Some(Tensor::from_vec(bias, (2, 3, keys), &Device::Cpu).unwrap());
        }
        if dropped {
            let count = 2 * 3 * queries * 2 * keys;
            let factors: Vec<f64> =
                (0..count).map(|_| if stream.unit() < 0.3 { 0.0 } else { 1.0 / 0.7 }).collect();
            plan.dropout = Some(Tensor::from_vec(factors, (2, 3, queries, 2, keys), &Device::Cpu).unwrap());
        }
        for width in [4, 20] {
            let inputs = [0, 1, 2].map(|_| random(&mut stream, &[2, 6, width], 1.5));
            let typed = |x: &[Tensor]| {
                let mut plan = plan.clone();
                let convert = |tensor: &mut Tensor| *tensor = tensor.to_dtype(x[0].dtype()).unwrap();
                plan.bias.iter_mut().for_each(convert);
                plan.dropout.iter_mut().for_each(convert);
                Arc::new(plan)
            };
            check_forms(
                &inputs,
                |x| attention::attention(&x[0], &x[1], &x[2], &typed(x)),
                |x| attention::reference(&x[0], &x[1], &x[2], &typed(x)),
            );
            let plan = Arc::new(plan.clone());
            if width == 4 {
                check_gradients(&inputs, |x| {
                    weighted_sum(&attention::attention(&x[0], &x[1], &x[2], &plan)?)
                });
            }
        }
    }
}

#[test]
fn attention_over_the_same_keys_for_every_example() {
    let mut stream = Stream::new(10, "test", 0);
    for keys in [3, 6] {
        let query_rows = Index::new((0..6).map(|_| stream.below(6)).collect(), 6).unwrap();
        let key_rows = Index::new((0..6).flat_map(|_| 0..keys as u32).collect(), 6).unwrap();
        let plan = Plan {
            heads: 2,
            examples: 3,
            queries: 1,
            keys,
            query_rows,
            key_rows,
            causal: false,
            bias: None,
            dropout: None,
            keys_in_order: true,
        };
        let inputs = [0, 1, 2].map(|_| random(&mut stream, &[2, 6, 8], 1.0));
        let bias = random(&mut stream, &[2, 3, keys], 1.0);
        for bias in [None, Some(bias)] {
            let typed = |dtype: DType| {
                let bias = bias.as_ref().map(|bias| bias.to_dtype(dtype).unwrap());
                Arc::new(Plan { bias, ..plan.clone() })
            };
            check_forms(
                &inputs,
                |x| attention::attention(&x[0], &x[1], &x[2], &typed(x[0].dtype())),
                |x| attention::reference(&x[0], &x[1], &x[2], &typed(x[0].dtype())),
            );
            check_gradients(&inputs, |x| {
                weighted_sum(&attention::attention(&x[0], &x[1], &x[2], &typed(DType::F64))?)
            });
        }
    }
}

#[test]
fn attention_survives_extreme_logits() {
    let mut stream = Stream::new(8, "test", 0);
    let plan = Arc::new(plan(&mut stream, 1, 4, 6, false));
    let inputs = [0, 1, 2].map(|_| random(&mut stream, &[2, 6, 4], 1.0));
    let huge = [inputs[0].affine(1e3, 0.0).unwrap(), inputs[1].affine(1e3, 0.0).unwrap(), inputs[2].clone()];
    check_forms(
        &huge,
        |x| attention::attention(&x[0], &x[1], &x[2], &plan),
        |x| attention::reference(&x[0], &x[1], &x[2], &plan),
    );
}

#[test]
fn losses_and_their_gradients() {
    let mut stream = Stream::new(9, "test", 0);
    let logits = random(&mut stream, &[2, 3, 5], 2.0);
    let classes = Answers::Classes(Arc::new(vec![0, 4, 2, 1, 1, 3]));
    let values = Answers::Values(Arc::new(vec![0.5, -1.0, 2.0, 3.0, 0.0, 1.0]));
    let outputs = random(&mut stream, &[2, 3, 1], 1.0);
    for weights in [None, Some(Arc::new(vec![1.0, 0.0, 2.0, 0.5, 0.5, 3.0]))] {
        for (x, answers) in [(&logits, &classes), (&outputs, &values)] {
            let criterion = Criterion { answers: answers.clone(), weights: weights.clone() };
            check_forms(
                std::slice::from_ref(x),
                |x| loss::loss(&x[0], &criterion),
                |x| loss::reference(&x[0], &criterion),
            );
            check_gradients(std::slice::from_ref(x), |x| loss::loss(&x[0], &criterion));
        }
    }
}

/// ln(1 + e^-30) is 9.4e-14: a 32-bit log-softmax says 0 there, with a gradient of 0.
#[test]
fn the_loss_of_confident_outputs_does_not_underflow() {
    let logits = Tensor::new(&[[[30f32, 0.0]]], &Device::Cpu).unwrap();
    let criterion = Criterion { answers: Answers::Classes(Arc::new(vec![0])), weights: None };
    let value = numbers(&loss::loss(&logits, &criterion).unwrap())[0];
    let exact = (-30f64).exp().ln_1p();
    assert!((value / exact - 1.0).abs() < 0.05, "{value} is not {exact}");
    let variable = candle_core::Var::from_tensor(&logits).unwrap();
    let gradients = loss::loss(&variable, &criterion).unwrap().sum_all().unwrap().backward().unwrap();
    let gradient = numbers(gradients.get(&variable).unwrap());
    assert!((gradient[1] / exact - 1.0).abs() < 1e-6, "{gradient:?}");
    let wild = Tensor::new(&[[[1e30f32, -1e30]]], &Device::Cpu).unwrap();
    assert_eq!(numbers(&loss::loss(&wild, &criterion).unwrap()), [0.0]);
}
