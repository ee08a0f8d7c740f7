//! The routes that a worker holds. No I/O.

use crate::answers::{Endpoint, Route};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Key = (Arc<str>, SocketAddr);

struct Entry<W> {
    key: Key,
    route: Option<Arc<Route>>,
    /// By the token that each came with, which is higher the later it came.
    waiting: BTreeMap<u64, W>,
    used: Instant,
}

/// `W` is what a waiting task left to be woken with.
pub struct Routes<W> {
    entries: HashMap<u64, Entry<W>>,
    by_key: HashMap<Key, u64>,
}

impl<W> Default for Routes<W> {
    fn default() -> Self {
        Self { entries: HashMap::new(), by_key: HashMap::new() }
    }
}

impl<W> Routes<W> {
    pub fn find(&mut self, key: &Key, now: Instant) -> Option<Arc<Route>> {
        let entry = self.entries.get_mut(self.by_key.get(key)?)?;
        entry.used = now;
        entry.route.clone()
    }

    /// Waits for the route under a token of its own; true when the question must be asked under that.
    pub fn wait(&mut self, key: &Key, waiter: W, token: u64, now: Instant) -> bool {
        if let Some(entry) = self.by_key.get(key).and_then(|token| self.entries.get_mut(token)) {
            entry.waiting.insert(token, waiter);
            return false;
        }
        self.by_key.insert(key.clone(), token);
        self.entries.insert(token, Entry { key: key.clone(), route: None, waiting: BTreeMap::from([(token, waiter)]), used: now });
        true
    }

    /// A route came, first or again. None: nobody here holds it any more.
    pub fn answered(&mut self, token: u64, route: Arc<Route>) -> Option<Vec<W>> {
        let entry = self.entries.get_mut(&token)?;
        entry.route = Some(route);
        Some(std::mem::take(&mut entry.waiting).into_values().collect())
    }

    /// Gives up a question that will not be answered.
    pub fn refused(&mut self, token: u64) {
        self.remove(token);
    }

    /// Whoever came with the token `waiter` waits no more. With the last one the question is forgotten; then, the token to release.
    pub fn abandon(&mut self, key: &Key, waiter: u64) -> Option<u64> {
        let token = *self.by_key.get(key)?;
        let entry = self.entries.get_mut(&token)?;
        entry.waiting.remove(&waiter)?;
        if !entry.waiting.is_empty() {
            return None;
        }
        self.remove(token);
        Some(token)
    }

    /// Forgets what nobody has used for `unused`, of one workload or of all; the tokens to release.
    pub fn trim(&mut self, unused: Duration, now: Instant, workload: Option<&str>) -> Vec<u64> {
        let wanted = |entry: &Entry<W>| workload.is_none_or(|of| of == &*entry.key.0);
        self.forget(|entry| wanted(entry) && entry.route.is_some() && now.saturating_duration_since(entry.used) >= unused)
    }

    /// Forgets all of a workload, also what is waited for; the tokens to release.
    pub fn forget_workload(&mut self, workload: &str) -> Vec<u64> {
        self.forget(|entry| &*entry.key.0 == workload)
    }

    /// Every endpoint that a route names, with the workload that it is for.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Arc<str>, &Endpoint)> {
        self.entries.values().flat_map(|entry| {
            let endpoints: &[Endpoint] = match entry.route.as_deref() {
                Some(Route::Forward(endpoints)) => endpoints,
                _ => &[],
            };
            endpoints.iter().map(|endpoint| (&entry.key.0, endpoint))
        })
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
        self.by_key.remove(&entry.key);
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse() -> Arc<Route> {
        let series = crate::series::SeriesTable::default().intern(serde_json::value::RawValue::from_string("{}".into()).unwrap());
        Arc::new(Route::Refuse { flag: crate::failure::Flag::NR, reason: String::new(), series })
    }

    #[test]
    fn one_question_serves_all_who_wait_and_all_who_come_later() {
        let now = Instant::now();
        let key: Key = ("w".into(), "10.0.0.1:80".parse().unwrap());
        let mut routes = Routes::default();
        assert!(routes.wait(&key, 7, 1, now) && !routes.wait(&key, 8, 2, now));
        assert!(routes.find(&key, now).is_none());
        assert_eq!(routes.answered(1, refuse()), Some(vec![7, 8]));
        assert_eq!(routes.abandon(&key, 2), None, "answered");
        assert!(routes.find(&key, now).is_some());
        assert_eq!(routes.trim(Duration::ZERO, now, None), [1]);
        assert!(routes.find(&key, now).is_none() && routes.answered(1, refuse()).is_none());
    }

    #[test]
    fn a_question_is_given_up_with_its_last_waiter() {
        let now = Instant::now();
        let key: Key = ("w".into(), "10.0.0.1:80".parse().unwrap());
        let mut routes = Routes::default();
        routes.wait(&key, 7, 1, now);
        routes.wait(&key, 8, 2, now);
        assert_eq!(routes.abandon(&key, 1), None);
        assert_eq!(routes.abandon(&key, 2), Some(1));
        assert!(routes.wait(&key, 9, 3, now), "the question is asked anew");
        assert_eq!(routes.abandon(&key, 2), None, "who waited before has no part in it");
        assert_eq!(routes.abandon(&key, 3), Some(3));
    }
}
