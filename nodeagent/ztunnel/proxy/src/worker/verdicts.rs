//! The verdicts that a worker holds, which connections stand on each, and what a change does to them. No I/O.

use crate::answers::{Flow, Verdict};
use crate::protocol::Holds;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What must happen to a connection whose verdict changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Denied now.
    Close(u64),
    /// The verdict no longer speaks of this connection's source: ask for its own.
    AskAgain(u64),
}

struct Entry<W> {
    flow: Flow,
    source: IpAddr,
    verdict: Option<Arc<Verdict>>,
    /// By the token that each came with, which is higher the later it came.
    waiting: BTreeMap<u64, W>,
    /// Connections and their sources.
    standing: HashMap<u64, IpAddr>,
    used: Instant,
}

/// `W` is what a waiting task left to be woken with.
pub struct Verdicts<W> {
    entries: HashMap<u64, Entry<W>>,
    by_source: HashMap<(Flow, IpAddr), u64>,
    /// Verdicts that hold for any source.
    any_source: HashMap<Flow, u64>,
}

impl<W> Default for Verdicts<W> {
    fn default() -> Self {
        Self { entries: HashMap::new(), by_source: HashMap::new(), any_source: HashMap::new() }
    }
}

impl<W> Verdicts<W> {
    /// The verdict in force for a connection, with the token that it stands on.
    pub fn find(&mut self, flow: &Flow, source: IpAddr, now: Instant) -> Option<(u64, Arc<Verdict>)> {
        let own = self.by_source.get(&(flow.clone(), source)).filter(|token| self.entries[*token].verdict.is_some());
        let token = *own.or_else(|| self.any_source.get(flow))?;
        let entry = self.entries.get_mut(&token)?;
        entry.used = now;
        Some((token, entry.verdict.clone()?))
    }

    /// Waits for the verdict under a token of its own; true when the question must be asked under that.
    pub fn wait(&mut self, flow: &Flow, source: IpAddr, waiter: W, token: u64, now: Instant) -> bool {
        let key = (flow.clone(), source);
        if let Some(entry) = self.by_source.get(&key).and_then(|token| self.entries.get_mut(token)) {
            entry.waiting.insert(token, waiter);
            return false;
        }
        self.by_source.insert(key, token);
        let waiting = BTreeMap::from([(token, waiter)]);
        let entry = Entry { flow: flow.clone(), source, verdict: None, waiting, standing: HashMap::new(), used: now };
        self.entries.insert(token, entry);
        true
    }

    /// A verdict came, first or again. None: nobody here holds it any more.
    pub fn answered(&mut self, token: u64, verdict: Arc<Verdict>, now: Instant) -> Option<(Vec<W>, Vec<Action>)> {
        let entry = self.entries.get_mut(&token)?;
        entry.used = now;
        let any_source = verdict.holds == Holds::AnySource;
        if any_source {
            self.any_source.insert(entry.flow.clone(), token);
        } else if self.any_source.get(&entry.flow) == Some(&token) {
            self.any_source.remove(&entry.flow);
        }
        let action = |(connection, source): (&u64, &IpAddr)| match (any_source || *source == entry.source, verdict.allow) {
            (true, true) => None,
            (true, false) => Some(Action::Close(*connection)),
            (false, _) => Some(Action::AskAgain(*connection)),
        };
        let actions: Vec<Action> = entry.standing.iter().filter_map(action).collect();
        entry.standing.retain(|_, source| any_source || *source == entry.source);
        entry.verdict = Some(verdict);
        Some((std::mem::take(&mut entry.waiting).into_values().collect(), actions))
    }

    /// Gives up a question that will not be answered.
    pub fn refused(&mut self, token: u64) {
        self.remove(token);
    }

    /// Whoever came with the token `waiter` waits no more. With the last one the question is forgotten; then, the token to release.
    pub fn abandon(&mut self, flow: &Flow, source: IpAddr, waiter: u64) -> Option<u64> {
        let token = *self.by_source.get(&(flow.clone(), source))?;
        let entry = self.entries.get_mut(&token)?;
        entry.waiting.remove(&waiter)?;
        if !entry.waiting.is_empty() {
            return None;
        }
        self.remove(token);
        Some(token)
    }

    pub fn stand(&mut self, token: u64, connection: u64, source: IpAddr) {
        if let Some(entry) = self.entries.get_mut(&token) {
            entry.standing.insert(connection, source);
        }
    }

    pub fn leave(&mut self, token: u64, connection: u64, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&token) {
            entry.standing.remove(&connection);
            entry.used = now;
        }
    }

    /// Forgets what nobody stands on or has asked for since `unused`, of one workload or of all; the tokens to release.
    pub fn trim(&mut self, unused: Duration, now: Instant, workload: Option<&str>) -> Vec<u64> {
        let wanted = |entry: &Entry<W>| workload.is_none_or(|of| of == &*entry.flow.workload);
        self.forget(|entry| {
            wanted(entry) && entry.verdict.is_some() && entry.standing.is_empty() && now.saturating_duration_since(entry.used) >= unused
        })
    }

    /// Forgets all of a workload, also what connections stand on or wait for; the tokens to release.
    pub fn forget_workload(&mut self, workload: &str) -> Vec<u64> {
        self.forget(|entry| &*entry.flow.workload == workload)
    }

    fn forget(&mut self, unwanted: impl Fn(&Entry<W>) -> bool) -> Vec<u64> {
        let tokens: Vec<u64> = self.entries.iter().filter(|(_, entry)| unwanted(entry)).map(|(token, _)| *token).collect();
        for token in &tokens {
            self.remove(*token);
        }
        tokens
    }

    fn remove(&mut self, token: u64) -> Option<Entry<W>> {
        let entry = self.entries.remove(&token)?;
        self.by_source.remove(&(entry.flow.clone(), entry.source));
        if self.any_source.get(&entry.flow) == Some(&token) {
            self.any_source.remove(&entry.flow);
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Via;
    use crate::series::SeriesTable;
    use serde_json::value::RawValue;

    fn flow() -> Flow {
        Flow { workload: "w".into(), destination: "10.0.0.1:80".parse().unwrap(), via: Via::Hbone, peer: Some("spiffe://x".into()) }
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 1, last])
    }

    fn verdict(allow: bool, holds: Holds) -> Arc<Verdict> {
        let series = SeriesTable::default().intern(RawValue::from_string("{}".into()).unwrap());
        Arc::new(Verdict { allow, holds, reason: String::new(), policy: None, series })
    }

    /// A table in which source 1 asked as token 1 and was answered.
    fn answered(allow: bool, holds: Holds) -> (Verdicts<u32>, Instant) {
        let now = Instant::now();
        let mut table = Verdicts::default();
        assert!(table.wait(&flow(), ip(1), 7, 1, now));
        let (woken, actions) = table.answered(1, verdict(allow, holds), now).unwrap();
        assert_eq!((woken, actions), (vec![7], vec![]));
        (table, now)
    }

    #[test]
    fn a_verdict_for_any_source_serves_other_sources() {
        let (mut table, now) = answered(true, Holds::AnySource);
        assert_eq!(table.find(&flow(), ip(2), now).unwrap().0, 1);
        let other = Flow { peer: None, ..flow() };
        assert!(table.find(&other, ip(1), now).is_none(), "another peer is another question");
    }

    #[test]
    fn a_verdict_for_one_source_serves_it_alone() {
        let (mut table, now) = answered(true, Holds::ThisSource);
        assert!(table.find(&flow(), ip(1), now).is_some());
        assert!(table.find(&flow(), ip(2), now).is_none());
    }

    #[test]
    fn two_that_wait_share_one_question() {
        let now = Instant::now();
        let mut table = Verdicts::default();
        assert!(table.wait(&flow(), ip(1), 7, 1, now));
        assert!(!table.wait(&flow(), ip(1), 8, 2, now));
        assert_eq!(table.answered(1, verdict(true, Holds::ThisSource), now).unwrap().0, [7, 8]);
    }

    #[test]
    fn deny_closes_all_that_stand_on_it() {
        let (mut table, now) = answered(true, Holds::AnySource);
        table.stand(1, 100, ip(1));
        table.stand(1, 101, ip(2));
        table.stand(1, 102, ip(3));
        table.leave(1, 102, now);
        let (_, mut actions) = table.answered(1, verdict(false, Holds::AnySource), now).unwrap();
        actions.sort();
        assert_eq!(actions, [Action::Close(100), Action::Close(101)]);
        assert!(!table.find(&flow(), ip(9), now).unwrap().1.allow);
    }

    #[test]
    fn narrowing_asks_again_for_every_other_source() {
        let (mut table, now) = answered(true, Holds::AnySource);
        table.stand(1, 100, ip(1));
        table.stand(1, 101, ip(2));
        let (_, actions) = table.answered(1, verdict(true, Holds::ThisSource), now).unwrap();
        assert_eq!(actions, [Action::AskAgain(101)]);
        assert!(table.find(&flow(), ip(2), now).is_none(), "the wide verdict is gone");
        let (_, actions) = table.answered(1, verdict(false, Holds::ThisSource), now).unwrap();
        assert_eq!(actions, [Action::Close(100)], "101 stands elsewhere by now");
    }

    #[test]
    fn narrowing_to_a_deny_does_both() {
        let (mut table, now) = answered(true, Holds::AnySource);
        table.stand(1, 100, ip(1));
        table.stand(1, 101, ip(2));
        let (_, mut actions) = table.answered(1, verdict(false, Holds::ThisSource), now).unwrap();
        actions.sort();
        assert_eq!(actions, [Action::Close(100), Action::AskAgain(101)]);
    }

    #[test]
    fn held_verdicts_stay_in_force_while_the_agent_is_away_and_are_let_go_when_unused() {
        let (mut table, now) = answered(true, Holds::AnySource);
        let later = now + Duration::from_secs(3600);
        assert!(table.find(&flow(), ip(1), now).is_some());
        table.stand(1, 100, ip(1));
        assert!(table.trim(Duration::from_secs(60), later, None).is_empty(), "a connection stands on it");
        table.leave(1, 100, later);
        assert!(table.trim(Duration::from_secs(60), later, None).is_empty(), "used just now");
        assert_eq!(table.trim(Duration::ZERO, later, None), [1]);
        assert!(table.find(&flow(), ip(1), later).is_none());
        assert!(table.answered(1, verdict(true, Holds::AnySource), later).is_none(), "a late answer finds nobody");
        assert!(table.by_source.is_empty() && table.any_source.is_empty());
    }

    #[test]
    fn a_question_is_given_up_with_its_last_waiter() {
        let now = Instant::now();
        let mut table = Verdicts::default();
        table.wait(&flow(), ip(1), 7, 1, now);
        table.wait(&flow(), ip(1), 8, 2, now);
        assert_eq!(table.abandon(&flow(), ip(1), 1), None);
        assert_eq!(table.abandon(&flow(), ip(1), 2), Some(1));
        assert!(table.entries.is_empty() && table.by_source.is_empty());
    }
}
