//! The answers that this process holds: which question each belongs to and which workers stand on it. No I/O.
//!
//! A worker names what it holds by a token of its own, never used twice: an answer that crosses a `forget` on its way finds
//! no token and is dropped, so nobody ever stands on an answer that is no longer kept true.

use crate::answers::{Answer, Question};
use crate::protocol::FromProxy;
use std::collections::HashMap;
use std::sync::Arc;

/// A worker and its name for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    pub worker: usize,
    pub token: u64,
}

/// No workload holds more than this part of the answers: one that scans the network must not take the others' place, which would
/// cost them what they hold when the agent is away. The agent has the same bound, at twice as many.
const SHARE: usize = 4;

pub enum Effect {
    Send(FromProxy),
    Tell(Holder, Answer),
    /// Workers should let go of what nobody uses: of one workload, or of all.
    Trim(Option<Arc<str>>),
}

struct Entry {
    question: Question,
    holders: Vec<Holder>,
    answer: Option<Answer>,
}

#[derive(Default)]
pub struct Held {
    entries: HashMap<u64, Entry>,
    by_question: HashMap<Question, u64>,
    by_holder: HashMap<(usize, u64), u64>,
    of_workload: HashMap<Arc<str>, usize>,
    next_id: u64,
    waiting: usize,
}

impl Held {
    pub fn ask(&mut self, holder: Holder, question: Question, limit: usize) -> Vec<Effect> {
        if let Some(id) = self.by_question.get(&question) {
            let entry = self.entries.get_mut(id).expect("both maps change together");
            entry.holders.push(holder);
            self.by_holder.insert((holder.worker, holder.token), *id);
            return entry.answer.iter().map(|answer| Effect::Tell(holder, answer.clone())).collect();
        }
        if self.entries.len() >= limit {
            return vec![Effect::Tell(holder, Answer::Full), Effect::Trim(None)];
        }
        let workload = question.workload().clone();
        let share = self.of_workload.entry(workload.clone()).or_default();
        if *share >= (limit / SHARE).max(1) {
            return vec![Effect::Tell(holder, Answer::Full), Effect::Trim(Some(workload))];
        }
        *share += 1;
        self.next_id += 1;
        let id = self.next_id;
        let message = question.message(id);
        self.by_question.insert(question.clone(), id);
        self.by_holder.insert((holder.worker, holder.token), id);
        self.entries.insert(id, Entry { question, holders: vec![holder], answer: None });
        self.waiting += 1;
        vec![Effect::Send(message)]
    }

    /// An answer, first or again; one to a question that was released meanwhile is dropped. Err: it does not fit its question.
    pub fn answered(&mut self, id: u64, answer: Answer) -> Result<Vec<Effect>, String> {
        let Some(entry) = self.entries.get_mut(&id) else {
            return Ok(Vec::new());
        };
        if entry.question.is_route() != matches!(answer, Answer::Route(_)) {
            return Err(format!("answer {id} is not of its question's kind"));
        }
        if entry.answer.replace(answer.clone()).is_none() {
            self.waiting -= 1;
        }
        Ok(entry.holders.iter().map(|holder| Effect::Tell(*holder, answer.clone())).collect())
    }

    /// A worker no longer holds these; what nobody holds any more is released.
    pub fn forget(&mut self, worker: usize, tokens: &[u64]) -> Vec<Effect> {
        let ids: Vec<u64> = tokens.iter().filter_map(|token| self.forget_one(worker, *token)).collect();
        if ids.is_empty() { Vec::new() } else { vec![Effect::Send(FromProxy::Release { ids })] }
    }

    /// The workload is gone, or another pod by now: whoever asks from here on asks the agent.
    pub fn forget_workload(&mut self, workload: &str) -> Vec<Effect> {
        let of_it = self.entries.values().filter(|entry| &**entry.question.workload() == workload);
        let holders: Vec<Holder> = of_it.flat_map(|entry| entry.holders.iter().copied()).collect();
        let ids: Vec<u64> = holders.iter().filter_map(|holder| self.forget_one(holder.worker, holder.token)).collect();
        if ids.is_empty() { Vec::new() } else { vec![Effect::Send(FromProxy::Release { ids })] }
    }

    fn forget_one(&mut self, worker: usize, token: u64) -> Option<u64> {
        let id = self.by_holder.remove(&(worker, token))?;
        let entry = self.entries.get_mut(&id)?;
        entry.holders.retain(|holder| *holder != Holder { worker, token });
        if !entry.holders.is_empty() {
            return None;
        }
        let entry = self.entries.remove(&id)?;
        self.by_question.remove(&entry.question);
        self.leave_share(entry.question.workload());
        if entry.answer.is_none() {
            self.waiting -= 1;
        }
        Some(id)
    }

    fn leave_share(&mut self, workload: &Arc<str>) {
        if let Some(share) = self.of_workload.get_mut(workload) {
            *share -= 1;
            if *share == 0 {
                self.of_workload.remove(workload);
            }
        }
    }

    /// Every question that is held, to be asked again of an agent that restarted; the answers held stay in force until replaced.
    pub fn ask_again(&self) -> impl Iterator<Item = FromProxy> {
        self.entries.iter().map(|(id, entry)| entry.question.message(*id))
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many routes and verdicts are held.
    pub fn count(&self) -> (usize, usize) {
        let routes = self.entries.values().filter(|entry| entry.question.is_route()).count();
        (routes, self.entries.len() - routes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::{Flow, Route, Verdict};
    use crate::protocol::{Holds, Via};
    use crate::series::SeriesTable;
    use serde_json::value::RawValue;

    const ONE: Holder = Holder { worker: 0, token: 1 };
    const TWO: Holder = Holder { worker: 1, token: 1 };

    fn verdict_question() -> Question {
        let flow = Flow { workload: "w".into(), destination: "10.0.0.1:80".parse().unwrap(), via: Via::Hbone, peer: None };
        Question::Verdict { flow, source: "10.0.0.2".parse().unwrap() }
    }

    fn verdict(allow: bool) -> Answer {
        let series = SeriesTable::default().intern(RawValue::from_string("{}".into()).unwrap());
        Answer::Verdict(Arc::new(Verdict { allow, holds: Holds::AnySource, reason: String::new(), policy: None, series }))
    }

    fn asked_id(effects: &[Effect]) -> u64 {
        match effects {
            [Effect::Send(FromProxy::AskVerdict { id, .. })] => *id,
            _ => panic!("expected one question"),
        }
    }

    fn told(effects: &[Effect]) -> Vec<(Holder, bool)> {
        let tell = |effect: &Effect| match effect {
            Effect::Tell(holder, Answer::Verdict(verdict)) => Some((*holder, verdict.allow)),
            _ => None,
        };
        effects.iter().filter_map(tell).collect()
    }

    #[test]
    fn a_question_is_asked_once_for_all_workers() {
        let mut held = Held::default();
        let id = asked_id(&held.ask(ONE, verdict_question(), 10));
        assert!(held.ask(TWO, verdict_question(), 10).is_empty());
        assert_eq!(held.waiting(), 1);
        assert_eq!(told(&held.answered(id, verdict(true)).unwrap()), [(ONE, true), (TWO, true)]);
        assert_eq!((held.waiting(), held.count()), (0, (0, 1)));
    }

    #[test]
    fn a_held_answer_costs_no_message_and_changes_reach_every_holder() {
        let mut held = Held::default();
        let id = asked_id(&held.ask(ONE, verdict_question(), 10));
        held.answered(id, verdict(true)).unwrap();
        assert_eq!(told(&held.ask(TWO, verdict_question(), 10)), [(TWO, true)]);
        assert_eq!(told(&held.answered(id, verdict(false)).unwrap()), [(ONE, false), (TWO, false)]);
    }

    #[test]
    fn the_last_holder_releases_and_late_answers_are_dropped() {
        let mut held = Held::default();
        let id = asked_id(&held.ask(ONE, verdict_question(), 10));
        held.ask(TWO, verdict_question(), 10);
        assert!(held.forget(ONE.worker, &[ONE.token]).is_empty());
        assert!(matches!(held.forget(TWO.worker, &[TWO.token]).as_slice(), [Effect::Send(FromProxy::Release { ids })] if ids == &[id]));
        assert!(held.answered(id, verdict(true)).unwrap().is_empty());
        assert_eq!((held.waiting(), held.count()), (0, (0, 0)));
        assert!(held.by_question.is_empty() && held.by_holder.is_empty() && held.of_workload.is_empty());
    }

    #[test]
    fn what_is_held_of_a_workload_goes_with_it_and_its_next_question_is_asked() {
        let mut held = Held::default();
        let id = asked_id(&held.ask(ONE, verdict_question(), 10));
        held.ask(TWO, verdict_question(), 10);
        held.answered(id, verdict(true)).unwrap();
        assert!(held.forget_workload("another").is_empty());
        assert!(matches!(held.forget_workload("w").as_slice(), [Effect::Send(FromProxy::Release { ids })] if ids == &[id]));
        let again = Holder { token: 2, ..ONE };
        assert_ne!(asked_id(&held.ask(again, verdict_question(), 10)), id);
        assert!(held.forget(TWO.worker, &[TWO.token]).is_empty(), "a worker that says so late changes nothing");
        assert_eq!((held.waiting(), held.count()), (1, (0, 1)));
    }

    #[test]
    fn ids_are_never_used_again() {
        let mut held = Held::default();
        let first = asked_id(&held.ask(ONE, verdict_question(), 10));
        held.forget(ONE.worker, &[ONE.token]);
        let again = Holder { token: 2, ..ONE };
        assert_ne!(first, asked_id(&held.ask(again, verdict_question(), 10)));
    }

    #[test]
    fn an_agent_that_restarted_is_asked_everything_again_and_its_answers_replace() {
        let mut held = Held::default();
        let id = asked_id(&held.ask(ONE, verdict_question(), 10));
        held.answered(id, verdict(true)).unwrap();
        assert_eq!(held.ask_again().count(), 1);
        assert_eq!(told(&held.ask(TWO, verdict_question(), 10)), [(TWO, true)], "the old answer stays in force");
        assert_eq!(told(&held.answered(id, verdict(false)).unwrap()), [(ONE, false), (TWO, false)]);
    }

    #[test]
    fn a_full_table_refuses_and_asks_for_room() {
        let mut held = Held::default();
        held.ask(ONE, verdict_question(), 1);
        let other = Question::Route { workload: "w".into(), destination: "10.0.0.9:1".parse().unwrap() };
        assert!(matches!(held.ask(TWO, other, 1).as_slice(), [Effect::Tell(TWO, Answer::Full), Effect::Trim(None)]));
    }

    #[test]
    fn a_workload_that_scans_is_refused_over_its_share_and_others_are_not() {
        let mut held = Held::default();
        let route = |workload: &str, port| Question::Route { workload: workload.into(), destination: ([10, 0, 0, 9], port).into() };
        let mut ask = |workload, port| held.ask(Holder { worker: 0, token: u64::from(port) }, route(workload, port), 8);
        for port in 1..=2 {
            assert!(matches!(ask("scanner", port).as_slice(), [Effect::Send(_)]));
        }
        let refused = ask("scanner", 3);
        assert!(matches!(refused.as_slice(), [Effect::Tell(_, Answer::Full), Effect::Trim(Some(of))] if &**of == "scanner"));
        assert!(matches!(ask("modest", 4).as_slice(), [Effect::Send(_)]));
        held.forget(0, &[1]);
        let again = held.ask(Holder { worker: 0, token: 5 }, route("scanner", 3), 8);
        assert!(matches!(again.as_slice(), [Effect::Send(_)]));
    }

    #[test]
    fn an_answer_of_the_wrong_kind_is_the_agents_error() {
        let mut held = Held::default();
        let id = asked_id(&held.ask(ONE, verdict_question(), 10));
        let series = SeriesTable::default().intern(RawValue::from_string("{}".into()).unwrap());
        assert!(held.answered(id, Answer::Route(Arc::new(Route::Pass(series)))).is_err());
    }
}
