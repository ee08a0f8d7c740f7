//! Asking the agent: routes and verdicts from what is held, or a question with a deadline.

use super::Worker;
use super::connections::Conn;
use super::routes::Routes;
use super::verdicts::{Action, Verdicts};
use crate::answers::{Answer, Flow, Question, Route, Verdict};
use crate::failure::{Failure, Flag};
use crate::messages::ToControl;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Woken when the answer is in the table; dropped when there is no room for it.
type Waiter = oneshot::Sender<()>;

#[derive(Default)]
pub struct Decisions {
    routes: RefCell<Routes<Waiter>>,
    verdicts: RefCell<Verdicts<Waiter>>,
    last_token: Cell<u64>,
}

/// A waiting task may end at any await, with its connection: what it leaves behind is taken up by this.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Answers that nobody has used for this long are let go.
const UNUSED: Duration = Duration::from_secs(90);

impl Worker {
    /// Where a new connection of this workload goes.
    pub async fn route(&self, workload: &Arc<str>, destination: SocketAddr) -> Result<Arc<Route>, Failure> {
        let key = (workload.clone(), destination);
        if let Some(route) = self.decisions.routes.borrow_mut().find(&key, Instant::now()) {
            return Ok(route);
        }
        let token = self.next_token();
        let _abandon = OnDrop(|| {
            let abandoned = self.decisions.routes.borrow_mut().abandon(&key, token);
            self.release(abandoned.into_iter().collect());
        });
        let (waiter, answered) = oneshot::channel();
        if self.decisions.routes.borrow_mut().wait(&key, waiter, token, Instant::now()) {
            self.ask(token, Question::Route { workload: workload.clone(), destination });
        }
        self.await_answer(answered).await?;
        let found = self.decisions.routes.borrow_mut().find(&key, Instant::now());
        found.ok_or_else(no_answer)
    }

    /// Lets a connection stand on an `allow`, or says why it may not.
    pub async fn authorise(&self, conn: &Rc<Conn>, flow: &Flow) -> Result<(), Failure> {
        let source = conn.source.ip();
        let found = self.decisions.verdicts.borrow_mut().find(flow, source, Instant::now());
        let (token, verdict) = match found {
            Some(found) => found,
            None => self.ask_verdict(flow, source).await?,
        };
        conn.judged(&verdict);
        if !verdict.allow {
            return Err(denied(&verdict));
        }
        self.decisions.verdicts.borrow_mut().stand(token, conn.id, source);
        conn.flow.replace(Some((token, flow.clone())));
        Ok(())
    }

    async fn ask_verdict(&self, flow: &Flow, source: IpAddr) -> Result<(u64, Arc<Verdict>), Failure> {
        let token = self.next_token();
        let _abandon = OnDrop(|| {
            let abandoned = self.decisions.verdicts.borrow_mut().abandon(flow, source, token);
            self.release(abandoned.into_iter().collect());
        });
        let (waiter, answered) = oneshot::channel();
        if self.decisions.verdicts.borrow_mut().wait(flow, source, waiter, token, Instant::now()) {
            self.ask(token, Question::Verdict { flow: flow.clone(), source });
        }
        self.await_answer(answered).await?;
        // What is in force now, which need not be what woke this task.
        let found = self.decisions.verdicts.borrow_mut().find(flow, source, Instant::now());
        found.ok_or_else(no_answer)
    }

    async fn await_answer(&self, answered: oneshot::Receiver<()>) -> Result<(), Failure> {
        match tokio::time::timeout(self.deadlines().decision, answered).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Failure::new(Flag::UO, "too many answers of the agent are held already")),
            Err(_) => Err(no_answer()),
        }
    }

    /// The connection no longer stands on its verdict.
    pub fn leave_verdict(&self, conn: &Conn) {
        if let Some((token, _)) = conn.flow.take() {
            self.decisions.verdicts.borrow_mut().leave(token, conn.id, Instant::now());
        }
    }

    pub fn answered(self: &Rc<Self>, token: u64, answer: Answer) {
        match answer {
            Answer::Route(route) => {
                let waiting = self.decisions.routes.borrow_mut().answered(token, route);
                wake(waiting.unwrap_or_default());
                self.pool.recheck();
            }
            Answer::Verdict(verdict) => {
                let answered = self.decisions.verdicts.borrow_mut().answered(token, verdict.clone(), Instant::now());
                let Some((waiting, actions)) = answered else { return };
                for action in actions {
                    self.act(action, &verdict);
                }
                wake(waiting);
            }
            Answer::Full => {
                self.decisions.routes.borrow_mut().refused(token);
                self.decisions.verdicts.borrow_mut().refused(token);
            }
        }
    }

    fn act(self: &Rc<Self>, action: Action, verdict: &Verdict) {
        match action {
            Action::Close(id) => {
                if let Some(conn) = self.connections.get(id) {
                    conn.judged(verdict);
                    conn.kill(denied(verdict));
                }
            }
            Action::AskAgain(id) => {
                let Some(conn) = self.connections.get(id) else { return };
                let Some((_, flow)) = conn.flow.take() else { return };
                let worker = self.clone();
                let unsettled = Unsettled(conn);
                self.spawn(async move {
                    let conn = &unsettled.0;
                    let authorised = worker.authorise(conn, &flow).await;
                    if conn.has_ended() {
                        worker.leave_verdict(conn);
                    } else if let Err(failure) = authorised {
                        conn.kill(failure);
                    }
                });
            }
        }
    }

    pub fn trim_answers(&self) {
        self.trim_unused(UNUSED, None);
    }

    /// There is no room for more: all that is not in use at this moment goes, of one workload or of all.
    pub fn let_go_of_unused(&self, workload: Option<&str>) {
        self.trim_unused(Duration::ZERO, workload);
    }

    fn trim_unused(&self, unused: Duration, workload: Option<&str>) {
        let now = Instant::now();
        let mut tokens = self.decisions.routes.borrow_mut().trim(unused, now, workload);
        tokens.extend(self.decisions.verdicts.borrow_mut().trim(unused, now, workload));
        self.release(tokens);
        self.pool.recheck();
    }

    /// Forgets all answers of a workload that is gone, whoever stands on them or waits: those connections are being closed.
    pub fn forget_answers_of(&self, workload: &str) {
        let mut tokens = self.decisions.routes.borrow_mut().forget_workload(workload);
        tokens.extend(self.decisions.verdicts.borrow_mut().forget_workload(workload));
        self.release(tokens);
    }

    /// Calls `each` with every endpoint that a held route names.
    pub fn named_endpoints(&self, mut each: impl FnMut(&Arc<str>, &crate::answers::Endpoint)) {
        for (workload, endpoint) in self.decisions.routes.borrow().endpoints() {
            each(workload, endpoint);
        }
    }

    fn next_token(&self) -> u64 {
        self.decisions.last_token.set(self.decisions.last_token.get() + 1);
        self.decisions.last_token.get()
    }

    fn ask(&self, token: u64, question: Question) {
        self.tell_control(ToControl::Ask { worker: self.index, token, question });
    }

    fn release(&self, tokens: Vec<u64>) {
        if !tokens.is_empty() {
            self.tell_control(ToControl::Forget { worker: self.index, tokens });
        }
    }
}

/// A connection between two verdicts: if the task that asks ends without one, so does the connection.
struct Unsettled(Rc<Conn>);

impl Drop for Unsettled {
    fn drop(&mut self) {
        if self.0.flow.borrow().is_none() {
            self.0.kill(no_answer());
        }
    }
}

fn wake(waiting: Vec<Waiter>) {
    for waiter in waiting {
        // One that gave up meanwhile needs no answer.
        let _ = waiter.send(());
    }
}

fn no_answer() -> Failure {
    Failure::new(Flag::DT, "the agent gave no decision in time")
}

fn denied(verdict: &Verdict) -> Failure {
    Failure::new(Flag::UAEX, verdict.reason.clone())
}
