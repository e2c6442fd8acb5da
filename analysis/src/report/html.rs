//! The page: one HTML file with inline style and inline figures, no script, for screen and paper.

use std::fmt::Write;

use super::{FigureFile, Provenance, lineage};
use crate::analyses::AnalysisResult;
use crate::analyses::population::measured_short;
use crate::cells::{Dataset, human};
use crate::table::TextTable;

/// Rows beyond which a table is folded away.
const LONG_TABLE: usize = 24;

const STYLE: &str = include_str!("style.css");

/// Text made safe for HTML, in elements and in quoted attributes.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// The whole page.
pub fn page(
    study: &str,
    description: &str,
    data: &Dataset,
    results: &[AnalysisResult],
    figures: &[FigureFile],
    provenance: &Provenance,
) -> String {
    let title = escape(study);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>{title}</h1>\n"
    );
    if !description.trim().is_empty() {
        push(&mut page, format_args!("<p class=\"lead\">{}</p>\n", escape(description.trim())));
    }
    push(&mut page, format_args!("<p class=\"counts\">{}</p>\n</header>\n", counts(data)));
    if let Some(caveat) = measured_short(data) {
        push(&mut page, format_args!("<div class=\"caveats\"><p>{}</p></div>\n", escape(&caveat)));
    }
    if !figures.is_empty() {
        page.push_str("<section>\n<h2>Figures</h2>\n");
        for figure in figures {
            push_figure(&mut page, figure);
        }
        page.push_str("</section>\n");
    }
    for result in results {
        push_analysis(&mut page, result);
    }
    push_configuration(&mut page, data, provenance);
    push_data(&mut page, provenance);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn push(page: &mut String, text: std::fmt::Arguments) {
    // Writing to a string cannot fail.
    let _ = page.write_fmt(text);
}

fn counts(data: &Dataset) -> String {
    let trials = data.trials().count();
    let endings: Vec<String> =
        data.endings().into_iter().map(|(state, count)| format!("{count} {}", state.name())).collect();
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let mut text = format!("{} in {}", plural(trials, "trial"), plural(data.cells.len(), "cell"));
    if !endings.is_empty() {
        text.push_str(": ");
        text.push_str(&endings.join(", "));
    }
    text + "."
}

fn push_figure(page: &mut String, figure: &FigureFile) {
    let stem = escape(&figure.stem);
    let svg = figure.svg.replacen("<svg ", "<svg role=\"img\" ", 1);
    push(
        page,
        format_args!(
            "<figure id=\"figure-{stem}\">\n<div class=\"picture\">{svg}</div>\n<figcaption>{} \
             <span class=\"files\"><a href=\"figures/{stem}.svg\">SVG</a> <a href=\"figures/{stem}.png\">PNG</a></span>\
             </figcaption>\n</figure>\n",
            escape(&crate::figures::style::capitalised(&figure.caption))
        ),
    );
}

fn push_analysis(page: &mut String, result: &AnalysisResult) {
    push(
        page,
        format_args!(
            "<section id=\"analysis-{}\">\n<h2>{}</h2>\n",
            escape(&result.name),
            escape(&result.title)
        ),
    );
    if !result.findings.is_empty() {
        page.push_str("<ul class=\"findings\">\n");
        for finding in &result.findings {
            push(page, format_args!("<li>{}</li>\n", escape(&crate::figures::style::capitalised(finding))));
        }
        page.push_str("</ul>\n");
    }
    for table in &result.tables {
        push_table(page, table, table.title != result.title);
    }
    if !result.caveats.is_empty() {
        page.push_str("<div class=\"caveats\">\n<h3>Read this with the numbers</h3>\n<ul>\n");
        for caveat in &result.caveats {
            push(page, format_args!("<li>{}</li>\n", escape(caveat)));
        }
        page.push_str("</ul>\n</div>\n");
    }
    page.push_str("</section>\n");
}

/// A table; `titled` where no heading above it already says the same.
fn push_table(page: &mut String, table: &TextTable, titled: bool) {
    let long = table.rows.len() > LONG_TABLE;
    if long {
        push(
            page,
            format_args!(
                "<details>\n<summary>{} ({} rows)</summary>\n",
                escape(&table.title),
                table.rows.len()
            ),
        );
    }
    page.push_str("<div class=\"wide\"><table>\n");
    if titled && !long {
        push(page, format_args!("<caption>{}</caption>\n", escape(&table.title)));
    }
    page.push_str("<thead><tr>");
    for column in &table.columns {
        push(page, format_args!("<th scope=\"col\">{}</th>", escape(column)));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        page.push_str("<tr>");
        for text in row {
            let class = if numeric(text) { " class=\"number\"" } else { "" };
            push(page, format_args!("<td{class}>{}</td>", escape(text)));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table></div>\n");
    if long {
        page.push_str("</details>\n");
    }
}

/// Whether a table entry reads as a number or an interval, and is set to the right.
fn numeric(text: &str) -> bool {
    let digits = text.chars().filter(char::is_ascii_digit).count();
    let letters = text.chars().filter(|letter| letter.is_alphabetic() && *letter != 'e').count();
    text == "–" || text == "∞" || (digits > 0 && letters == 0)
}

fn push_configuration(page: &mut String, data: &Dataset, provenance: &Provenance) {
    page.push_str("<section id=\"configuration\">\n<h2>What was run</h2>\n");
    let mut varied = TextTable::new("Varied", ["parameter", "values"]);
    for label in &data.labels {
        let values: Vec<String> = data
            .group_by(&[label])
            .iter()
            .map(|group| human(group.values.first().and_then(Option::as_ref)))
            .collect();
        varied.push([label.clone(), values.join(", ")]);
    }
    for (name, leader) in &data.following {
        varied.push([name.clone(), format!("follows {leader}")]);
    }
    let mut seeds: Vec<u64> = data.trials().map(|trial| trial.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    if !seeds.is_empty() {
        let list: Vec<String> = seeds.iter().map(u64::to_string).collect();
        let text = match (seeds.first(), seeds.last()) {
            (Some(first), Some(last)) if seeds.len() > 8 => {
                format!("{} seeds from {first} to {last}", seeds.len())
            }
            _ => list.join(", "),
        };
        varied.push(["seed".to_owned(), text]);
    }
    push_table(page, &varied, true);
    if let Some(lineage) = lineage::table(data.trials(), provenance) {
        push_table(page, &lineage, true);
    }
    let mut endings = TextTable::new("How trials ended", ["state", "trials"]);
    for (state, count) in data.endings() {
        endings.push([state.name().to_owned(), count.to_string()]);
    }
    push_table(page, &endings, true);
    let mut fixed = TextTable::new("The same in all trials", ["parameter", "value"]);
    for (name, value) in &data.fixed {
        fixed.push([name.clone(), human(Some(value))]);
    }
    push_table(page, &fixed, true);
    page.push_str("</section>\n");
}

fn push_data(page: &mut String, provenance: &Provenance) {
    page.push_str(
        "<section id=\"data\">\n<h2>The data</h2>\n<p>Beside this page: <a href=\"cells.csv\">cells.csv</a> (one line per \
         cell), <a href=\"trials.parquet\">trials.parquet</a> (one row per trial with all parameters), \
         <a href=\"metrics.parquet\">metrics.parquet</a> (one row per trial, metric and step), \
         <a href=\"summary.json\">summary.json</a> (every result of this page) and <code>figures/</code>.</p>\n\
         <pre><code>import pandas as pd\n\n\
         trials = pd.read_parquet(\"trials.parquet\")\n\
         metrics = pd.read_parquet(\"metrics.parquet\").merge(trials, left_on=\"trial\", right_on=\"id\")\n\
         test = metrics[metrics.metric == \"test_accuracy\"]\n\
         test.pivot_table(index=\"step\", columns=\"trial\", values=\"value\").plot(logx=True)\n\
         </code></pre>\n",
    );
    if !provenance.entries.is_empty() {
        let mut table = TextTable::new("Where this comes from", ["what", "value"]);
        for (name, value) in &provenance.entries {
            table.push([name, value]);
        }
        push_table(page, &table, true);
    }
    page.push_str("</section>\n");
}

#[cfg(test)]
mod tests {
    use plateau_common::results::Parameter;

    use super::*;

    #[test]
    fn case_62_no_text_of_others_becomes_part_of_the_page() {
        let hostile = "\"><script>alert('x')</script><img src=x onerror=alert(1)>&";
        let mut records = crate::fixture::grokking(2);
        for (index, record) in records.iter_mut().enumerate() {
            let word = if index % 2 == 0 { hostile } else { "plain" };
            record.parameters.insert(hostile.to_owned(), Parameter::Text(word.to_owned()));
            record.parameters.insert("task.kind".to_owned(), Parameter::Text(hostile.to_owned()));
        }
        let data = Dataset::new(&records, &[]);
        let figure = FigureFile {
            stem: hostile.to_owned(),
            caption: hostile.to_owned(),
            svg: "<svg ></svg>".to_owned(),
            png: Vec::new(),
        };
        let provenance = Provenance { entries: vec![(hostile.to_owned(), hostile.to_owned())] };
        let page = page(hostile, hostile, &data, &[], &[figure], &provenance);
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)"), "{page}");
        assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
    }

    #[test]
    fn numbers_and_words_are_told_apart() {
        for text in
            ["1", "0.93 [0.9 … 1]", "–", "∞", "8.5e-5", "> 60", "3 of 5".replace(" of ", "/").as_str()]
        {
            assert!(numeric(text), "{text}");
        }
        for text in ["grokked", "weight-decay = 1", "", "not reached"] {
            assert!(!numeric(text), "{text}");
        }
    }
}
