//! Case 53: wall clocks that jump change nothing but the times that are shown.

use anyhow::ensure;

use crate::world::{COORDINATOR, Plan, World};
use crate::{for_seeds, oracles, trace};
use std::time::Duration;

const YEAR: i64 = 365 * 86_400 * 1000;

/// A sweep in which the clocks of these hosts jump by so many milliseconds after half a minute: its trace, what is stored
/// without the times that are shown, and with them.
fn with_jumps(seed: u64, jumps: &[(&str, i64)]) -> anyhow::Result<(Vec<String>, Vec<String>, Vec<String>)> {
    let mut world = World::start(Plan::of(seed))?;
    world.run_until(Duration::from_secs(30))?;
    for (host, milliseconds) in jumps {
        world.clocks.jump(host, *milliseconds);
    }
    world.finish()?;
    oracles::check(&mut world)?;
    Ok((trace::take(), oracles::contents(&world, false)?, oracles::contents(&world, true)?))
}

#[test]
fn case_53_a_wall_clock_that_jumps_by_a_year_changes_only_what_is_shown() -> anyhow::Result<()> {
    for_seeds("case_53", 1, |seed| {
        let (trace, contents, shown) = with_jumps(seed, &[])?;
        for years in [1, -1] {
            let (moved_trace, moved_contents, moved_shown) =
                with_jumps(seed, &[(COORDINATOR, years * YEAR)])?;
            let differs = trace.iter().zip(&moved_trace).find(|(a, b)| a != b);
            ensure!(differs.is_none() && trace.len() == moved_trace.len(), "{years} years: {differs:?}");
            ensure!(contents == moved_contents, "{years} years: other rows");
            ensure!(shown != moved_shown, "the clock did not jump");
        }
        Ok(())
    })
}
