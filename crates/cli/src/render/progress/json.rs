//! `--progress rawjson`: one event per line, for programs.

use std::io::{self, Write};
use std::time::Duration;

use rbuild_builder::event::Event;
use serde::Serialize;

use super::Draw;

/// Writes each event as one JSON object with the seconds since the build began.
pub(super) struct Json<W> {
    out: W,
}

#[derive(Serialize)]
struct Line<'a> {
    at: f64,
    #[serde(flatten)]
    event: &'a Event,
}

impl<W> Json<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }
}

impl<W: Write + Send> Draw for Json<W> {
    fn draw(&mut self, event: &Event, at: Duration) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Line { at: at.as_secs_f64(), event })?;
        line.push(b'\n');
        self.out.write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::warned;
    use super::*;

    #[test]
    fn warnings_are_without_the_text_they_are_about() {
        let mut json = Json::new(Vec::new());
        json.draw(&warned(), Duration::ZERO).unwrap();
        let event: serde_json::Value = serde_json::from_slice(&json.out).unwrap();
        let expect = serde_json::json!({
            "at": 0.0,
            "event": "warning",
            "severity": "warning",
            "rule": "StageNameCasing",
            "message": "stage name 'Base' should be lowercase",
            "span": {"start": 15, "end": 19},
            "lines": null,
            "hint": "write `base`",
            "url": "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
        });
        assert_eq!(event, expect);
    }

    #[test]
    fn events_are_one_line_each() {
        let mut json = Json::new(Vec::new());
        let events = [
            Event::Notice { message: "two\nlines".to_owned() },
            Event::PlanReady { stages: vec!["build".to_owned()], steps: 2 },
        ];
        for event in &events {
            json.draw(event, Duration::from_millis(1500)).unwrap();
        }
        let text = String::from_utf8(json.out).unwrap();
        let expect = concat!(
            r#"{"at":1.5,"event":"notice","message":"two\nlines"}"#,
            "\n",
            r#"{"at":1.5,"event":"plan-ready","stages":["build"],"steps":2}"#,
            "\n"
        );
        assert_eq!(text, expect);
    }
}
