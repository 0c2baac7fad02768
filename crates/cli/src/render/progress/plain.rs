//! `--progress plain`: lines that only ever get more, for logs.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use rbuild_builder::event::{Event, OutputStream, StepId, Transfer, TransferState};

use super::Draw;
use super::lines::Lines;
use super::{exported, retrying};
use crate::render::diagnostic::Colour;
use crate::render::{bytes, one_line};

/// A transfer that runs is mentioned this often.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes lines in the manner of BuildKit.
pub(super) struct Plain<W> {
    out: W,
    colour: Colour,
    running: BTreeMap<StepId, Running>,
    /// Running transfers by digest.
    moving: BTreeMap<String, Moving>,
}

/// A running transfer.
struct Moving {
    /// Bytes that had moved when it was first heard of.
    from: u64,
    started: Duration,
    /// When a line about it was last written.
    mentioned: Duration,
}

impl Moving {
    /// `, 12.3MB/s` since the start; nothing while that says little.
    fn rate(&self, done: u64, at: Duration) -> String {
        let took = at.saturating_sub(self.started);
        if took < Duration::from_secs(1) {
            return String::new();
        }
        let moved = u128::from(done.saturating_sub(self.from)) * 1000 / took.as_millis().max(1);
        format!(", {}/s", bytes(u64::try_from(moved).unwrap_or(u64::MAX)))
    }
}

struct Running {
    started: Duration,
    stdout: Lines,
    stderr: Lines,
}

impl<W: Write> Plain<W> {
    pub(super) fn new(out: W, colour: Colour) -> Self {
        Self { out, colour, running: BTreeMap::new(), moving: BTreeMap::new() }
    }

    fn output(&mut self, id: StepId, lines: &[String], at: Duration) -> io::Result<()> {
        let number = number(id);
        let started = self.running.get(&id).map_or(at, |step| step.started);
        let seconds = at.saturating_sub(started).as_secs_f64();
        lines.iter().try_for_each(|line| writeln!(self.out, "#{number} {seconds:.3} {line}"))
    }

    /// Writes what a step left without a newline, and forgets the step.
    fn end(&mut self, id: StepId, at: Duration) -> io::Result<()> {
        let rest: Vec<String> = match self.running.get_mut(&id) {
            Some(step) => [step.stdout.rest(), step.stderr.rest()].into_iter().flatten().collect(),
            None => Vec::new(),
        };
        self.output(id, &rest, at)?;
        self.running.remove(&id);
        Ok(())
    }

    fn transfer(&mut self, verb: &str, transfer: &Transfer, at: Duration) -> io::Result<()> {
        let Transfer { image, digest, done, total, state } = transfer;
        let line = match state {
            TransferState::Running => {
                let new = Moving { from: *done, started: at, mentioned: at };
                let moving = self.moving.entry(digest.clone()).or_insert(new);
                if at.saturating_sub(moving.mentioned) < PATIENCE {
                    return Ok(());
                }
                moving.mentioned = at;
                format!("{} of {}{}", bytes(*done), bytes(*total), moving.rate(*done, at))
            }
            TransferState::Finished => {
                let rate = self.moving.remove(digest).map(|moving| moving.rate(*total, at));
                format!("{} done{}", bytes(*total), rate.unwrap_or_default())
            }
            TransferState::Exists => format!("{} exists", bytes(*total)),
            TransferState::Mounted => format!("{} mounted", bytes(*total)),
        };
        writeln!(self.out, "{verb} {image} {digest} {line}")
    }

    fn step(&mut self, event: &Event, at: Duration) -> io::Result<()> {
        match event {
            Event::StepStarted { id, stage, number: step, total, display } => {
                let running = Running { started: at, stdout: Lines::default(), stderr: Lines::default() };
                self.running.insert(*id, running);
                writeln!(self.out, "#{} [{stage} {step}/{total}] {}", number(*id), one_line(display))
            }
            Event::StepMissed { id, reasons } => reasons
                .iter()
                .try_for_each(|reason| writeln!(self.out, "#{} {}", number(*id), super::missed(reason))),
            Event::StepOutput { id, stream, bytes } => {
                let Some(step) = self.running.get_mut(id) else { return Ok(()) };
                let lines = match stream {
                    OutputStream::Stdout => step.stdout.push(bytes),
                    OutputStream::Stderr => step.stderr.push(bytes),
                };
                self.output(*id, &lines, at)
            }
            Event::StepFinished { id, cached: true, .. } => {
                self.end(*id, at)?;
                writeln!(self.out, "#{} CACHED", number(*id))
            }
            Event::StepFinished { id, duration, layer_size, .. } => {
                self.end(*id, at)?;
                let size = layer_size.map(|size| format!(" {}", bytes(size))).unwrap_or_default();
                writeln!(self.out, "#{} DONE {:.1}s{size}", number(*id), duration.as_secs_f64())
            }
            Event::StepCancelled { id, .. } => {
                self.end(*id, at)?;
                writeln!(self.out, "#{} CANCELED", number(*id))
            }
            Event::StepFailed { id, message, .. } => {
                self.end(*id, at)?;
                writeln!(self.out, "#{} ERROR: {}", number(*id), one_line(message))
            }
            _ => Ok(()),
        }
    }
}

impl<W: Write + Send> Draw for Plain<W> {
    fn draw(&mut self, event: &Event, at: Duration) -> io::Result<()> {
        match event {
            Event::PlanReady { stages, steps } => {
                let s = if *steps == 1 { "" } else { "s" };
                writeln!(self.out, "building {} ({steps} step{s})", stages.join(", "))
            }
            Event::Isolation { name, why } if why.is_empty() => writeln!(self.out, "isolation {name}"),
            Event::Isolation { name, why } => writeln!(self.out, "isolation {name}: {}", one_line(why)),
            Event::Warning { finding, file } => {
                writeln!(self.out, "{}\n", super::warning(finding, file, self.colour))
            }
            Event::Notice { message } => writeln!(self.out, "{}", one_line(message)),
            Event::Resolved { name, digest } => writeln!(self.out, "base {name} is {digest}"),
            Event::Retrying { failure, tries, delay } => {
                writeln!(self.out, "{}", retrying(failure, *tries, *delay))
            }
            Event::Pull(transfer) => self.transfer("pull", transfer, at),
            Event::Push(transfer) => self.transfer("push", transfer, at),
            Event::Exported { output, digest, unchanged } => {
                let digest = digest.as_ref().map(|digest| format!(" {digest}")).unwrap_or_default();
                writeln!(self.out, "{} {output}{digest}", exported(*unchanged))
            }
            event => self.step(event, at),
        }
    }
}

/// Steps are numbered from 1 for people.
fn number(id: StepId) -> usize {
    id.0.saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{DRAWN, warned};
    use super::*;

    fn started(id: usize, display: &str) -> Event {
        let stage = "build".to_owned();
        Event::StepStarted { id: StepId(id), stage, number: id + 1, total: 3, display: display.to_owned() }
    }

    fn output(id: usize, text: &str) -> Event {
        Event::StepOutput { id: StepId(id), stream: OutputStream::Stdout, bytes: text.as_bytes().to_vec() }
    }

    fn finished(id: usize, cached: bool, layer_size: Option<u64>) -> Event {
        Event::StepFinished { id: StepId(id), cached, duration: Duration::from_millis(1234), layer_size }
    }

    fn check(events: &[(u64, Event)], expect: &str) {
        let mut plain = Plain::new(Vec::new(), Colour::Never);
        for (milliseconds, event) in events {
            plain.draw(event, Duration::from_millis(*milliseconds)).unwrap();
        }
        assert_eq!(String::from_utf8(plain.out).unwrap(), expect);
    }

    #[test]
    fn steps_read_like_buildkits() {
        check(
            &[
                (0, Event::PlanReady { stages: vec!["build".into(), "stage-1".into()], steps: 3 }),
                (0, Event::Isolation { name: "namespaces".into(), why: String::new() }),
                (0, Event::Resolved { name: "debian".into(), digest: "sha256:aa".into() }),
                (0, started(0, "COPY . /src")),
                (0, finished(0, true, None)),
                (100, started(1, "RUN make &&\n  make install")),
                (200, started(2, "RUN true")),
                (250, output(1, "compiling\nlink")),
                (260, output(2, "x\n")),
                (350, output(1, "ing\nno newline")),
                (1300, finished(1, false, Some(12_345_678))),
                (1400, finished(2, false, None)),
            ],
            "building build, stage-1 (3 steps)\n\
             isolation namespaces\n\
             base debian is sha256:aa\n\
             #1 [build 1/3] COPY . /src\n\
             #1 CACHED\n\
             #2 [build 2/3] RUN make && make install\n\
             #3 [build 3/3] RUN true\n\
             #2 0.150 compiling\n\
             #3 0.060 x\n\
             #2 0.250 linking\n\
             #2 1.200 no newline\n\
             #2 DONE 1.2s 12.3MB\n\
             #3 DONE 1.2s\n",
        );
    }

    #[test]
    fn failures_end_a_step() {
        let failed =
            Event::StepFailed { id: StepId(0), message: "exit code: 2".into(), duration: Duration::ZERO };
        check(
            &[(0, started(0, "RUN false")), (10, output(0, "oh\n")), (20, failed)],
            "#1 [build 1/3] RUN false\n#1 0.010 oh\n#1 ERROR: exit code: 2\n",
        );
    }

    #[test]
    fn transfers_are_mentioned_now_and_then() {
        let transfer = |done, state| Transfer {
            image: "debian".into(),
            digest: "sha256:aa".into(),
            done,
            total: 48_600_000,
            state,
        };
        check(
            &[
                (0, Event::Pull(transfer(0, TransferState::Running))),
                (4000, Event::Pull(transfer(1_000_000, TransferState::Running))),
                (6000, Event::Pull(transfer(20_000_000, TransferState::Running))),
                (7000, Event::Pull(transfer(30_000_000, TransferState::Running))),
                (8000, Event::Pull(transfer(48_600_000, TransferState::Finished))),
                (8000, Event::Push(transfer(0, TransferState::Mounted))),
                (8000, Event::Push(transfer(0, TransferState::Exists))),
                (
                    9000,
                    Event::Exported {
                        output: "oci out.tar".into(),
                        digest: Some("sha256:bb".into()),
                        unchanged: false,
                    },
                ),
            ],
            "pull debian sha256:aa 20.0MB of 48.6MB, 3.33MB/s\n\
             pull debian sha256:aa 48.6MB done, 6.08MB/s\n\
             push debian sha256:aa 48.6MB mounted\n\
             push debian sha256:aa 48.6MB exists\n\
             exported oci out.tar sha256:bb\n",
        );
    }

    #[test]
    fn retries_are_told() {
        let failure = "GET https://r.example/v2/a/manifests/1: 429 Too Many Requests".to_owned();
        let retrying = Event::Retrying { failure, tries: 2, delay: Duration::from_millis(1500) };
        check(
            &[(0, retrying)],
            "GET https://r.example/v2/a/manifests/1: 429 Too Many Requests; try 2 failed, retrying in 1.5s\n",
        );
    }

    #[test]
    fn warnings_show_their_place() {
        let steps = "#1 [build 1/3] RUN true\n";
        check(&[(0, warned()), (0, started(0, "RUN true"))], &format!("{DRAWN}{steps}"));
    }
}
