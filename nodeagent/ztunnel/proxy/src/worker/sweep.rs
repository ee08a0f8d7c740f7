//! What is looked after once a second for all connections and tunnels together, instead of by a timer for each.

use super::{Conn, Worker};
use crate::failure::{Failure, Flag};
use crate::messages::ToControl;
use crate::protocol::seconds;
use std::rc::Rc;
use std::time::{Duration, Instant};

const LOG_INTERVAL: Duration = Duration::from_millis(100);
const TICKS_PER_SWEEP: u32 = 10;
const TICKS_PER_TRIM: u32 = 100;

pub async fn run(worker: Rc<Worker>) {
    let mut interval = tokio::time::interval(LOG_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for tick in 1u32.. {
        interval.tick().await;
        worker.beats.beat(worker.index);
        let log = worker.connections.take_log();
        if !log.is_empty() {
            worker.tell_control(ToControl::Closed(log));
        }
        if tick % TICKS_PER_SWEEP == 0 {
            worker.sweep(Instant::now());
        }
        if tick % TICKS_PER_TRIM == 0 {
            worker.trim();
        }
    }
}

impl Worker {
    fn sweep(&self, now: Instant) {
        self.connections.flush();
        let bound = seconds(self.settings().half_closed_s);
        let stale = |conn: &Conn| conn.half_closed.get() && now.saturating_duration_since(conn.active()) > bound;
        for conn in self.connections.matching(stale) {
            conn.kill(Failure::new(Flag::DT, "half closed and silent for too long"));
        }
        self.recheck_pool();
        self.tunnels.sweep(now, &self.settings());
    }

    fn trim(&self) {
        self.trim_answers();
        self.health.trim(Instant::now());
        self.pool.trim();
        self.workloads.borrow().values().for_each(|workload| workload.trim_stock());
    }
}
