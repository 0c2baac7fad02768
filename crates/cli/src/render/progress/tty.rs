//! `--progress tty`: a live view that collapses what is done.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rbuild_builder::event::{Event, OutputStream, StepId, Transfer, TransferState};

use super::Draw;
use super::lines::Lines;
use super::retrying;
use crate::render::diagnostic::Colour;
use crate::render::{bytes, one_line, printable};

/// How many lines of a running step's output are shown.
const TAIL: usize = 5;

/// How many characters of an instruction are shown.
const LONGEST_TITLE: usize = 120;

const TICK: Duration = Duration::from_millis(120);

/// Draws one block per running step and one line per running transfer; what is done becomes a line that stays.
pub(super) struct Tty {
    view: MultiProgress,
    colour: Colour,
    steps: BTreeMap<StepId, Step>,
    transfers: BTreeMap<(Verb, String), ProgressBar>,
}

struct Step {
    title: String,
    bar: ProgressBar,
    tail: VecDeque<String>,
    stdout: Lines,
    stderr: Lines,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verb {
    Pull,
    Push,
}

impl Tty {
    pub(super) fn new(colour: Colour) -> Self {
        Self::on(ProgressDrawTarget::stderr(), colour)
    }

    fn on(target: ProgressDrawTarget, colour: Colour) -> Self {
        let view = MultiProgress::with_draw_target(target);
        Self { view, colour, steps: BTreeMap::new(), transfers: BTreeMap::new() }
    }

    fn start(&mut self, id: StepId, title: String) {
        let bar = self.view.add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner} {prefix} {elapsed}{msg}"));
        bar.set_prefix(title.clone());
        bar.enable_steady_tick(TICK);
        let (stdout, stderr) = (Lines::default(), Lines::default());
        self.steps.insert(id, Step { title, bar, tail: VecDeque::new(), stdout, stderr });
    }

    fn end(&mut self, id: StepId, outcome: &str) -> io::Result<()> {
        let Some(step) = self.steps.remove(&id) else { return Ok(()) };
        step.bar.finish_and_clear();
        self.view.println(format!("{} {outcome}", step.title))
    }

    fn transfer(&mut self, verb: Verb, transfer: &Transfer) -> io::Result<()> {
        let key = (verb, transfer.digest.clone());
        let name = match verb {
            Verb::Pull => "pull",
            Verb::Push => "push",
        };
        if transfer.state == TransferState::Running {
            let bar = self.transfers.entry(key).or_insert_with(|| {
                let bar = self.view.add(ProgressBar::new(transfer.total));
                bar.set_style(style("  {prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}"));
                bar.set_prefix(format!("{name} {}", short(&transfer.digest)));
                bar
            });
            bar.set_position(transfer.done);
            return Ok(());
        }
        if let Some(bar) = self.transfers.remove(&key) {
            bar.finish_and_clear();
        }
        let outcome = match transfer.state {
            TransferState::Mounted => "mounted",
            TransferState::Exists => "exists",
            TransferState::Finished | TransferState::Running => "done",
        };
        let (digest, total) = (short(&transfer.digest), bytes(transfer.total));
        self.view.println(format!("{name} {} {digest} {total} {outcome}", transfer.image))
    }

    fn step(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::StepStarted { id, stage, number, total, display } => {
                self.start(*id, format!("[{stage} {number}/{total}] {}", shorten(&one_line(display))));
                Ok(())
            }
            Event::StepMissed { reasons, .. } => {
                reasons.iter().try_for_each(|reason| self.view.println(super::missed(reason)))
            }
            Event::StepOutput { id, stream, bytes } => {
                if let Some(step) = self.steps.get_mut(id) {
                    step.output(*stream, bytes);
                }
                Ok(())
            }
            Event::StepFinished { id, cached: true, .. } => self.end(*id, "CACHED"),
            Event::StepFinished { id, duration, layer_size, .. } => {
                let size = layer_size.map(|size| format!(" {}", bytes(size))).unwrap_or_default();
                self.end(*id, &format!("{:.1}s{size}", duration.as_secs_f64()))
            }
            Event::StepCancelled { id, .. } => self.end(*id, "CANCELED"),
            Event::StepFailed { id, .. } => self.end(*id, "ERROR"),
            _ => Ok(()),
        }
    }
}

impl Step {
    fn output(&mut self, stream: OutputStream, bytes: &[u8]) {
        let lines = match stream {
            OutputStream::Stdout => self.stdout.push(bytes),
            OutputStream::Stderr => self.stderr.push(bytes),
        };
        for line in lines {
            self.tail.push_back(printable(&line));
            if self.tail.len() > TAIL {
                self.tail.pop_front();
            }
        }
        let shown: String = self.tail.iter().map(|line| format!("\n    {line}")).collect();
        self.bar.set_message(shown);
    }
}

impl Draw for Tty {
    fn draw(&mut self, event: &Event, _: Duration) -> io::Result<()> {
        match event {
            Event::Isolation { name, why } if why.is_empty() => {
                self.view.println(format!("isolation {name}"))
            }
            Event::Isolation { name, why } => {
                self.view.println(format!("isolation {name}: {}", one_line(why)))
            }
            Event::Warning { finding, file } =>
            // indicatif drops one newline at the end
            {
                self.view.println(format!("{}\n\n", super::warning(finding, file, self.colour)))
            }
            Event::Notice { message } => self.view.println(one_line(message)),
            Event::Resolved { name, digest } => {
                self.view.println(format!("base {name} is {}", short(digest)))
            }
            Event::Retrying { failure, tries, delay } => self.view.println(retrying(failure, *tries, *delay)),
            Event::Pull(transfer) => self.transfer(Verb::Pull, transfer),
            Event::Push(transfer) => self.transfer(Verb::Push, transfer),
            Event::Exported { output, unchanged, .. } => {
                self.view.println(format!("{} {output}", super::exported(*unchanged)))
            }
            event => self.step(event),
        }
    }

    fn clear(&mut self) {
        for step in std::mem::take(&mut self.steps).into_values() {
            step.bar.finish_and_clear();
        }
        for bar in std::mem::take(&mut self.transfers).into_values() {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Cuts an instruction to what fits on a line or two.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(LONGEST_TITLE) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}

/// Cuts a digest to twelve digits, enough to tell layers apart.
fn short(digest: &str) -> &str {
    digest.get(.."sha256:".len() + 12).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{DRAWN, warned};
    use super::*;
    use indicatif::TermLike;
    use std::sync::{Arc, Mutex};

    /// Remembers all that was ever written.
    #[derive(Clone, Debug, Default)]
    struct Recorder(Arc<Mutex<String>>);

    impl TermLike for Recorder {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(&format!("{text}\n"))
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn long_instructions_are_cut() {
        assert_eq!(shorten("RUN é"), "RUN é");
        assert_eq!(shorten(&"é".repeat(121)), format!("{}…", "é".repeat(120)));
    }

    #[test]
    fn done_steps_collapse_and_running_ones_show_their_tail() {
        let term = Recorder::default();
        let mut tty = Tty::on(ProgressDrawTarget::term_like(Box::new(term.clone())), Colour::Never);
        let start = |id, display: &str| Event::StepStarted {
            id: StepId(id),
            stage: "build".into(),
            number: id + 1,
            total: 2,
            display: display.into(),
        };
        let lines: String = (1..=9).map(|line| format!("line {line}\n")).collect();
        let output = |id| Event::StepOutput {
            id: StepId(id),
            stream: OutputStream::Stderr,
            bytes: lines.clone().into(),
        };
        let done = |id| Event::StepFinished {
            id: StepId(id),
            cached: false,
            duration: Duration::from_secs(1),
            layer_size: Some(1000),
        };
        for event in [start(0, "RUN one"), start(1, "RUN two"), output(0), output(1), done(0)] {
            tty.draw(&event, Duration::ZERO).unwrap();
        }
        assert_eq!(tty.steps.len(), 1);
        let tail = &tty.steps[&StepId(1)].tail;
        assert_eq!(tail.iter().collect::<Vec<_>>(), ["line 5", "line 6", "line 7", "line 8", "line 9"]);
        let shown = term.0.lock().unwrap().clone();
        assert!(shown.contains("[build 1/2] RUN one 1.0s 1.00kB"), "{shown}");
        tty.clear();
        assert!(tty.steps.is_empty());
    }

    #[test]
    fn warnings_show_their_place_and_stay() {
        let term = Recorder::default();
        let mut tty = Tty::on(ProgressDrawTarget::term_like(Box::new(term.clone())), Colour::Never);
        tty.draw(&warned(), Duration::ZERO).unwrap();
        tty.clear();
        let shown = term.0.lock().unwrap().clone();
        // Each line is filled up to the terminal's width.
        let letters: Vec<char> = shown.chars().collect();
        let lines = letters.chunks(80).map(|line| line.iter().collect::<String>());
        let lines: String = lines.map(|line| format!("{}\n", line.trim_end())).collect();
        assert_eq!(lines, DRAWN);
    }
}
