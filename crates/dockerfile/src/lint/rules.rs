//! The rules as data.

/// A lint rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The name that `# check=skip=` takes.
    pub name: &'static str,
    /// What the rule wants.
    pub description: &'static str,
    /// The page that explains it.
    pub url: Option<&'static str>,
    /// Whether it is off unless `# check=experimental=` names it.
    pub experimental: bool,
}

/// Declares the rules and the list of all of them.
macro_rules! rules {
    ($($constant:ident, $name:literal, $page:expr, $description:literal;)*) => {
        $(
            #[doc = $description]
            pub const $constant: Rule = Rule {
                name: $name,
                description: $description,
                url: $page,
                experimental: false,
            };
        )*

        /// The rules that are on by default.
        const DEFAULT: &[Rule] = &[$($constant),*];
    };
}

/// The page of a rule in Docker's documentation.
macro_rules! page {
    ($name:literal) => {
        Some(concat!("https://docs.docker.com/go/dockerfile/rule/", $name, "/"))
    };
}

rules! {
    CONSISTENT_INSTRUCTION_CASING, "ConsistentInstructionCasing", page!("consistent-instruction-casing"),
        "All commands within the Dockerfile should use the same casing (either upper or lower)";
    COPY_IGNORED_FILE, "CopyIgnoredFile", page!("copy-ignored-file"),
        "Attempting to Copy file that is excluded by .dockerignore";
    DUPLICATE_STAGE_NAME, "DuplicateStageName", page!("duplicate-stage-name"), "Stage names should be unique";
    EXPOSE_INVALID_FORMAT, "ExposeInvalidFormat", page!("expose-invalid-format"),
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release";
    EXPOSE_PROTO_CASING, "ExposeProtoCasing", page!("expose-proto-casing"),
        "Protocol in EXPOSE instruction should be lowercase";
    FROM_AS_CASING, "FromAsCasing", page!("from-as-casing"),
        "The 'as' keyword should match the case of the 'from' keyword";
    FROM_PLATFORM_FLAG_CONST_DISALLOWED, "FromPlatformFlagConstDisallowed",
        page!("from-platform-flag-const-disallowed"), "FROM --platform flag should not use a constant value";
    INVALID_BASE_IMAGE_PLATFORM, "InvalidBaseImagePlatform", None,
        "Base image platform does not match expected target platform";
    INVALID_DEFAULT_ARG_IN_FROM, "InvalidDefaultArgInFrom", page!("invalid-default-arg-in-from"),
        "Default value for global ARG results in an empty or invalid base image name";
    JSON_ARGS_RECOMMENDED, "JSONArgsRecommended", page!("json-args-recommended"),
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals";
    LEGACY_KEY_VALUE_FORMAT, "LegacyKeyValueFormat", page!("legacy-key-value-format"),
        "Legacy key/value format with whitespace separator should not be used";
    MAINTAINER_DEPRECATED, "MaintainerDeprecated", page!("maintainer-deprecated"),
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author";
    MULTIPLE_INSTRUCTIONS_DISALLOWED, "MultipleInstructionsDisallowed",
        page!("multiple-instructions-disallowed"),
        "Multiple instructions of the same type should not be used in the same stage";
    NO_EMPTY_CONTINUATION, "NoEmptyContinuation", page!("no-empty-continuation"),
        "Empty continuation lines will become errors in a future release";
    REDUNDANT_TARGET_PLATFORM, "RedundantTargetPlatform", page!("redundant-target-platform"),
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior";
    RESERVED_STAGE_NAME, "ReservedStageName", page!("reserved-stage-name"),
        "Reserved words should not be used as stage names";
    SECRETS_USED_IN_ARG_OR_ENV, "SecretsUsedInArgOrEnv", page!("secrets-used-in-arg-or-env"),
        "Sensitive data should not be used in the ARG or ENV commands";
    STAGE_NAME_CASING, "StageNameCasing", page!("stage-name-casing"), "Stage names should be lowercase";
    UNDEFINED_ARG_IN_FROM, "UndefinedArgInFrom", page!("undefined-arg-in-from"),
        "FROM command must use declared ARGs";
    UNDEFINED_VAR, "UndefinedVar", page!("undefined-var"), "Variables should be defined before their use";
    WORKDIR_RELATIVE_PATH, "WorkdirRelativePath", page!("workdir-relative-path"),
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes";
}

/// Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`.
pub const INVALID_DEFINITION_DESCRIPTION: Rule = Rule {
    name: "InvalidDefinitionDescription",
    description: "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. \
                  If this is not intended to be a description comment, add an empty line or comment between the \
                  instruction and the comment.",
    url: page!("invalid-definition-description"),
    experimental: true,
};

/// Returns all rules.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    DEFAULT.iter().chain([&INVALID_DEFINITION_DESCRIPTION])
}

/// Finds a rule by its name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Rule> {
    all().find(|rule| rule.name == name)
}

/// Tells whether only a plan of the build decides what the rule of this name finds.
#[must_use]
pub fn needs_plan(name: &str) -> bool {
    const PLANNED: [Rule; 12] = [
        COPY_IGNORED_FILE,
        EXPOSE_INVALID_FORMAT,
        EXPOSE_PROTO_CASING,
        INVALID_BASE_IMAGE_PLATFORM,
        INVALID_DEFAULT_ARG_IN_FROM,
        JSON_ARGS_RECOMMENDED,
        LEGACY_KEY_VALUE_FORMAT,
        MULTIPLE_INSTRUCTIONS_DISALLOWED,
        SECRETS_USED_IN_ARG_OR_ENV,
        UNDEFINED_ARG_IN_FROM,
        UNDEFINED_VAR,
        WORKDIR_RELATIVE_PATH,
    ];
    PLANNED.iter().any(|rule| rule.name == name)
}
