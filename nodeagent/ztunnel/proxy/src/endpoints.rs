//! Which endpoint a new connection goes to: the lowest tier that is healthy, in it the least load for its weight.

/// What the choice looks at, of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub tier: i64,
    pub weight: u32,
    /// Open connections of this worker.
    pub load: u32,
    /// Failed too often lately; used only when all that are left have.
    pub ejected: bool,
    /// Tried for this connection already.
    pub tried: bool,
}

/// Whether one that is no worse off is left beside the one at `index`.
pub fn has_other(candidates: &[Candidate], index: usize) -> bool {
    let other = |(at, other): (usize, &Candidate)| at != index && !other.tried && (!other.ejected || candidates[index].ejected);
    candidates.iter().enumerate().any(other)
}

/// The index to try next; None when all have been tried. `random` breaks ties.
pub fn choose(candidates: &[Candidate], random: u64) -> Option<usize> {
    let left = || candidates.iter().enumerate().filter(|(_, candidate)| !candidate.tried);
    let any_healthy = left().any(|(_, candidate)| !candidate.ejected);
    let usable = || left().filter(move |(_, candidate)| !(any_healthy && candidate.ejected));
    let tier = usable().map(|(_, candidate)| candidate.tier).min()?;
    let in_tier = || usable().filter(move |(_, candidate)| candidate.tier == tier);
    let (_, best) = in_tier().reduce(|a, b| if lighter(b.1, a.1) { b } else { a })?;
    let ties = || in_tier().filter(|(_, candidate)| !lighter(best, candidate) && !lighter(candidate, best));
    let count = ties().count() as u64;
    ties().nth(usize::try_from(random % count).ok()?).map(|(index, _)| index)
}

/// Compares (load + 1) / weight without dividing: an endpoint of weight 0 is the last resort of its tier.
fn lighter(a: &Candidate, b: &Candidate) -> bool {
    (u64::from(a.load) + 1) * u64::from(b.weight) < (u64::from(b.load) + 1) * u64::from(a.weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Candidate = Candidate { tier: 0, weight: 1, load: 0, ejected: false, tried: false };

    #[test]
    fn a_lower_tier_wins_over_less_load() {
        let candidates = [Candidate { tier: 1, ..PLAIN }, Candidate { load: 90, ..PLAIN }];
        assert_eq!(choose(&candidates, 0), Some(1));
    }

    #[test]
    fn load_counts_against_weight() {
        let candidates = [Candidate { load: 3, weight: 1, ..PLAIN }, Candidate { load: 5, weight: 2, ..PLAIN }];
        assert_eq!(choose(&candidates, 0), Some(1));
    }

    #[test]
    fn an_ejected_tier_falls_through_to_the_next() {
        let candidates = [Candidate { ejected: true, ..PLAIN }, Candidate { tier: 1, ..PLAIN }];
        assert_eq!(choose(&candidates, 0), Some(1));
    }

    #[test]
    fn what_was_tried_or_set_aside_is_no_other_for_one_in_good_health() {
        let (ejected, tried) = (Candidate { ejected: true, ..PLAIN }, Candidate { tried: true, ..PLAIN });
        assert!(has_other(&[PLAIN, PLAIN], 0) && has_other(&[ejected, ejected], 1));
        assert!(!has_other(&[PLAIN, ejected, tried], 0));
        assert!(!has_other(&[PLAIN], 0));
    }

    #[test]
    fn all_ejected_means_all_are_used() {
        let candidates = [Candidate { ejected: true, ..PLAIN }; 2];
        assert_eq!(choose(&candidates, 0), Some(0));
        assert_eq!(choose(&candidates, 1), Some(1));
    }

    fn candidate() -> impl Strategy<Value = Candidate> {
        (0..3i64, 0..4u32, 0..5u32, any::<bool>(), any::<bool>()).prop_map(|(tier, weight, load, ejected, tried)| Candidate {
            tier,
            weight,
            load,
            ejected,
            tried,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn the_choice_is_never_dominated(candidates in prop::collection::vec(candidate(), 0..8), random: u64) {
            let Some(index) = choose(&candidates, random) else {
                prop_assert!(candidates.iter().all(|candidate| candidate.tried));
                return Ok(());
            };
            let chosen = candidates[index];
            prop_assert!(!chosen.tried);
            for other in candidates.iter().filter(|other| !other.tried && (!other.ejected || chosen.ejected)) {
                prop_assert!(!chosen.ejected || other.ejected, "a healthy one was passed over");
                prop_assert!(chosen.tier <= other.tier);
                prop_assert!(other.tier > chosen.tier || !lighter(other, &chosen));
            }
        }

        #[test]
        fn trying_again_and_again_tries_each_once(mut candidates in prop::collection::vec(candidate(), 0..8), random: u64) {
            let open = candidates.iter().filter(|candidate| !candidate.tried).count();
            let mut tries = 0;
            while let Some(index) = choose(&candidates, random) {
                candidates[index].tried = true;
                tries += 1;
            }
            prop_assert_eq!(tries, open);
        }
    }
}
