//! The trials and metrics of a sweep as CSV (RFC 4180), with the columns of the Parquet tables of the report.

use std::collections::BTreeSet;
use std::io::{self, Write};

use plateau_analysis::analyses::population::last_evaluation;
use plateau_analysis::export::csv_field;
use plateau_common::results::TrialRecord;

/// One row per trial: `trial`, `seed`, `state`, `last_step`, `budget`, `diverged_at`, `train_seconds`, every parameter under
/// its dotted path, `final.step` (of the last evaluation), and `final.<metric>`. Absent values are empty.
pub fn trials(records: &[TrialRecord], out: &mut impl Write) -> io::Result<()> {
    // The seed has a column already.
    let parameters: BTreeSet<&String> =
        records.iter().flat_map(|record| record.parameters.keys()).filter(|path| *path != "seed").collect();
    let metrics: BTreeSet<&String> = records.iter().flat_map(|record| record.series.keys()).collect();
    let fixed =
        ["trial", "seed", "state", "last_step", "budget", "diverged_at", "train_seconds"].map(str::to_owned);
    let mut heading = fixed.to_vec();
    heading.extend(parameters.iter().map(|path| path.to_string()));
    heading.push("final.step".to_owned());
    heading.extend(metrics.iter().map(|metric| format!("final.{metric}")));
    row(out, &heading)?;
    for record in records {
        let mut fields = vec![
            record.id.clone(),
            record.seed.to_string(),
            record.state.to_string(),
            record.last_step.to_string(),
            record.budget.to_string(),
            record.diverged_at.map(|step| step.to_string()).unwrap_or_default(),
            record.train_seconds.to_string(),
        ];
        fields.extend(
            parameters
                .iter()
                .map(|path| record.parameters.get(*path).map(ToString::to_string).unwrap_or_default()),
        );
        fields.push(last_evaluation(record).map(|step| step.to_string()).unwrap_or_default());
        fields.extend(metrics.iter().map(|metric| {
            let last = record.series.get(*metric).and_then(|series| series.last());
            last.map(|(_, value)| value.to_string()).unwrap_or_default()
        }));
        row(out, &fields)?;
    }
    Ok(())
}

/// One row per trial, metric and step: `trial`, `metric`, `step`, `value` (NaN and infinities as measured).
pub fn metrics(records: &[TrialRecord], out: &mut impl Write) -> io::Result<()> {
    row(out, &["trial", "metric", "step", "value"].map(str::to_owned))?;
    for record in records {
        for (metric, series) in &record.series {
            for (step, value) in series.steps.iter().zip(&series.values) {
                row(out, &[record.id.clone(), metric.clone(), step.to_string(), value.to_string()])?;
            }
        }
    }
    Ok(())
}

fn row(out: &mut impl Write, fields: &[String]) -> io::Result<()> {
    let fields: Vec<String> = fields.iter().map(|text| csv_field(text)).collect();
    writeln!(out, "{}", fields.join(","))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use plateau_common::results::{Parameter, Series};
    use plateau_common::trial::TrialState;

    use super::*;

    fn records() -> Vec<TrialRecord> {
        let record =
            |id: &str, seed, state, parameter: (&str, Parameter), series: &[(&str, &[(u64, f64)])]| {
                TrialRecord {
                    id: id.to_owned(),
                    parameters: BTreeMap::from([
                        ("seed".to_owned(), Parameter::Number(0.0)),
                        (parameter.0.to_owned(), parameter.1),
                    ]),
                    seed,
                    state,
                    last_step: 2,
                    budget: 2,
                    diverged_at: (state == TrialState::Diverged).then_some(1),
                    train_seconds: 0.5,
                    series: series
                        .iter()
                        .map(|(name, points)| {
                            let (steps, values) = points.iter().copied().unzip();
                            ((*name).to_owned(), Series { steps, values })
                        })
                        .collect(),
                }
            };
        vec![
            record(
                "a",
                0,
                TrialState::Completed,
                ("p", Parameter::Text("x,y".to_owned())),
                &[("loss", &[(0, 1.5), (2, 0.25)])],
            ),
            record(
                "b",
                1,
                TrialState::Diverged,
                ("q", Parameter::Number(3.0)),
                &[("loss", &[(0, f64::NAN)])],
            ),
        ]
    }

    #[test]
    fn trials_have_a_row_each_with_empty_fields_for_what_they_lack() {
        let mut out = Vec::new();
        trials(&records(), &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "trial,seed,state,last_step,budget,diverged_at,train_seconds,p,q,final.step,final.loss\n\
             a,0,completed,2,2,,0.5,\"x,y\",,2,0.25\n\
             b,1,diverged,2,2,1,0.5,,3,0,NaN\n"
        );
    }

    #[test]
    fn case_62_a_parameter_that_looks_like_a_formula_is_exported_as_a_word() {
        let mut records = records();
        records[0].parameters.insert("p".to_owned(), Parameter::Text("=cmd|' /C calc'!A0".to_owned()));
        let mut out = Vec::new();
        trials(&records, &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains(",'=cmd|' /C calc'!A0,"));
    }

    #[test]
    fn metrics_have_a_row_per_value() {
        let mut out = Vec::new();
        metrics(&records(), &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "trial,metric,step,value\na,loss,0,1.5\na,loss,2,0.25\nb,loss,0,NaN\n"
        );
    }
}
