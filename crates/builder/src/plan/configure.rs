//! Instructions that change the config, and `WORKDIR`.

use rbuild_dockerfile::{Arg, Form, HealthTest, Healthcheck, Instruction, Pair, Span};
use rbuild_image::Empty;

use super::expose;
use super::go_format;
use super::lint::Remark;
use super::lower::Shared;
use super::outline::{OutlineArg, lines};
use super::path;
use super::scope::{is_exported, set_entry};
use super::signal::is_signal;
use super::stage::{Adds, Lowered, StageState, Words};
use super::step::{StepKind, WorkdirStep};
use super::warning::{Checked, refuse};

impl StageState {
    /// Folds an instruction that is none of `RUN`, `COPY`, `ADD`, `WORKDIR`, `ARG` and `ONBUILD`.
    pub(super) fn configure(
        &mut self,
        instruction: &Instruction,
        span: Span,
        words: &mut Words,
    ) -> Checked<Lowered> {
        let keyword = instruction.keyword();
        if matches!(keyword, "CMD" | "ENTRYPOINT" | "HEALTHCHECK") {
            let earlier = self.used.insert(keyword, span);
            let repeated = earlier.map(|earlier| Remark::repeated(&words.keyword, earlier));
            words.remark(repeated);
        }
        let created_by = match instruction {
            Instruction::Env(pairs) => self.set_env(pairs, words)?,
            Instruction::Label(pairs) => self.set_labels(pairs, words)?,
            Instruction::Cmd(command) => {
                let argv = self.command(&command.form, words);
                let text = format!("CMD {}", go_format::quoted_list(&argv));
                self.config.config.cmd = Some(argv);
                self.config.config.args_escaped = true;
                text
            }
            Instruction::Entrypoint(command) => {
                let argv = self.command(&command.form, words);
                let text = format!("ENTRYPOINT {}", go_format::quoted_list(&argv));
                self.config.config.entrypoint = Some(argv);
                if !self.used.contains_key("CMD") {
                    self.config.config.cmd = None;
                }
                text
            }
            Instruction::Maintainer(author) => {
                self.config.author = Some(author.clone());
                format!("MAINTAINER {author}")
            }
            Instruction::Expose(ports) => self.expose(ports, words)?,
            Instruction::Volume(volumes) => self.set_volumes(volumes, words)?,
            Instruction::User(user) => {
                self.config.config.user = words.word(user, &self.env)?;
                format!("USER {}", self.config.config.user)
            }
            Instruction::Stopsignal(signal) => self.set_stop_signal(signal, words)?,
            Instruction::Healthcheck(check) => self.set_healthcheck(check),
            Instruction::Shell(shell) => {
                self.config.config.shell = Some(shell.clone());
                format!("SHELL {}", go_format::list(shell))
            }
            other => return Err(refuse(format!("{} is no config instruction", other.keyword()))),
        };
        Ok(Lowered::configure(created_by))
    }

    fn command(&self, form: &Form, words: &mut Words) -> Vec<String> {
        match form {
            Form::Shell(line) => {
                let shell = self.config.config.shell.as_ref().filter(|shell| !shell.is_empty());
                let remark = shell.is_none().then(|| Remark::shell_form(&words.keyword));
                words.remark(remark);
                self.with_shell(line)
            }
            Form::Exec(argv) => argv.clone(),
        }
    }

    /// Expands all pairs before the first is set: those of one instruction do not see each other.
    fn pairs(&self, pairs: &[Pair], words: &mut Words) -> Checked<Vec<(String, String)>> {
        let legacy = pairs.iter().any(|pair| pair.legacy).then(|| Remark::legacy_pair(&words.keyword));
        words.remark(legacy);
        pairs
            .iter()
            .map(|pair| Ok((words.word(&pair.key, &self.env)?, words.word(&pair.value, &self.env)?)))
            .collect()
    }

    fn set_env(&mut self, pairs: &[Pair], words: &mut Words) -> Checked<String> {
        let pairs = self.pairs(pairs, words)?;
        for (name, value) in &pairs {
            words.remark(Remark::secret("ENV", name));
            self.env.set(name, value);
            set_entry(&mut self.config.config.env, name, value);
        }
        Ok(pairs_text("ENV", &pairs))
    }

    fn set_labels(&mut self, pairs: &[Pair], words: &mut Words) -> Checked<String> {
        let pairs = self.pairs(pairs, words)?;
        let text = pairs_text("LABEL", &pairs);
        self.config.config.labels.extend(pairs);
        Ok(text)
    }

    fn expose(&mut self, ports: &[String], words: &mut Words) -> Checked<String> {
        let mut expanded = Vec::new();
        for word in ports {
            expanded.extend(words.split(word, &self.env)?);
        }
        words.remark(expanded.iter().flat_map(|port| Remark::of_port(port)));
        let ports = expose::ports(&expanded).map_err(refuse)?;
        self.config.config.exposed_ports.extend(ports.iter().map(|port| (port.clone(), Empty {})));
        Ok(format!("EXPOSE {}", go_format::list(&ports)))
    }

    fn set_volumes(&mut self, volumes: &[String], words: &mut Words) -> Checked<String> {
        let volumes = words.each(volumes, &self.env)?;
        if volumes.iter().any(String::is_empty) {
            return Err(refuse("VOLUME specified can not be an empty string"));
        }
        self.config.config.volumes.extend(volumes.iter().map(|volume| (volume.clone(), Empty {})));
        Ok(format!("VOLUME {}", go_format::list(&volumes)))
    }

    fn set_stop_signal(&mut self, signal: &str, words: &mut Words) -> Checked<String> {
        let signal = words.word(signal, &self.env)?;
        if !is_signal(&signal) {
            return Err(refuse(format!("invalid signal: {signal}")));
        }
        let text = format!("STOPSIGNAL {signal}");
        self.config.config.stop_signal = signal;
        Ok(text)
    }

    fn set_healthcheck(&mut self, check: &Healthcheck) -> String {
        let nanoseconds =
            |duration: std::time::Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        let test = match &check.test {
            HealthTest::None => vec!["NONE".to_owned()],
            HealthTest::Command(Form::Shell(line)) => vec!["CMD-SHELL".to_owned(), line.clone()],
            HealthTest::Command(Form::Exec(argv)) => [&["CMD".to_owned()], argv.as_slice()].concat(),
        };
        let health = rbuild_image::Healthcheck {
            test,
            interval: nanoseconds(check.interval),
            timeout: nanoseconds(check.timeout),
            start_period: nanoseconds(check.start_period),
            start_interval: nanoseconds(check.start_interval),
            retries: i64::from(check.retries),
            ..Default::default()
        };
        let text = format!(
            "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            go_format::list(&health.test),
            go_format::duration(health.interval),
            go_format::duration(health.timeout),
            go_format::duration(health.start_period),
            go_format::duration(health.start_interval),
            health.retries
        );
        self.config.config.healthcheck = Some(health);
        text
    }

    /// Declares arguments, each after the one before it: `ARG a=1 b=$a` gives `b=1`.
    pub(super) fn arg(
        &mut self,
        args: &[Arg],
        shared: &Shared<'_>,
        span: Span,
        words: &mut Words,
    ) -> Checked<Lowered> {
        let mut declared = Vec::with_capacity(args.len());
        for arg in args {
            words.remark(Remark::secret("ARG", &arg.name));
            let global = shared.arguments.get(&arg.name).map(str::to_owned);
            let (value, inherits) = match (shared.options.build_args.get(&arg.name), &arg.value) {
                (Some(given), _) => (Some(given.clone()), false),
                (None, Some(default)) => (Some(words.word(default, &self.env)?), false),
                (None, None) => (global.clone(), global.is_some()),
            };
            if inherits {
                self.offer.inherit(&arg.name);
            } else {
                let (name, description) = (arg.name.clone(), arg.doc.clone());
                let lines = lines(shared.dockerfile, span);
                self.offer.declare(OutlineArg { name, value: value.clone(), description, lines });
            }
            words.declare(&self.arguments);
            declared.push(match &value {
                Some(value) => format!("{}={value}", arg.name),
                None => arg.name.clone(),
            });
            if let Some(value) = value.as_deref().filter(|_| is_exported(&arg.name)) {
                self.env.set(&arg.name, value);
            }
            self.arguments.push((arg.name.clone(), value));
        }
        Ok(Lowered::configure(format!("ARG {}", declared.join(" "))))
    }

    pub(super) fn workdir(&mut self, path: &str, words: &mut Words) -> Checked<Lowered> {
        let path = words.word(path, &self.env)?;
        let relative = !self.workdir_used && !path.starts_with('/');
        words.remark(relative.then(|| Remark::relative_directory(&path)));
        self.workdir_used = true;
        let directory = path::absolute(&self.config.config.working_dir, &path);
        self.config.config.working_dir.clone_from(&directory);
        self.directory.clone_from(&directory);
        let created_by = format!("WORKDIR {directory}");
        if directory == "/" {
            return Ok(Lowered::configure(created_by));
        }
        let step = WorkdirStep { path: path::clean(&directory), user: self.config.config.user.clone() };
        Ok(Lowered { created_by: Some(created_by), adds: Adds::Layer, kind: StepKind::Workdir(step) })
    }
}

fn pairs_text(keyword: &str, pairs: &[(String, String)]) -> String {
    let mut text = keyword.to_owned();
    for (name, value) in pairs {
        text.extend([" ", name, "=", value]);
    }
    text
}
