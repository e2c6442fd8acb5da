//! From the results of a sweep to statistics, transitions, fits, figures and a report.
//!
//! Pure: takes trial records and a [`plan::Plan`], gives numbers, tables, drawings and bytes; the only input or output
//! is [`report::Report::write`]. It knows nothing of sweeps' storage, the network or training.
//!
//! The way through: [`plan::Plan::read`] reads a study's `[[analysis]]` and `[[figure]]` tables; [`cells::Dataset`]
//! groups trials into cells; each entry of [`analyses::ANALYSES`] turns them into an [`analyses::AnalysisResult`];
//! each entry of [`figures::FIGURES`] draws; [`report::Report`] binds all of it into files.

pub mod analyses;
pub mod cells;
pub mod export;
pub mod figures;
pub mod filter;
pub mod lengths;
pub mod metric;
pub mod number;
pub mod plan;
pub mod report;
pub mod statistics;
pub mod table;
pub mod transition;

#[cfg(test)]
mod fixture;
