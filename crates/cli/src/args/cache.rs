//! What is typed about caches that builds share.

use clap::{Args, Subcommand};

use super::{Format, RegistryArgs};

/// Caches elsewhere, for a build.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Cache")]
pub(crate) struct CacheArgs {
    /// Use results of earlier builds: NAME, type=registry,ref=NAME (an image with an inline cache, too) or type=local,src=DIR;
    /// with scope=NAME those of a scope, the first the most trusted (repeatable)
    #[arg(long, value_name = "CACHE")]
    pub(crate) cache_from: Vec<String>,
    /// Keep results for other builds: type=registry,ref=NAME or type=local,dest=DIR, with mode=max those of all stages and with
    /// scope=NAME under a name of their own; or type=inline, in the image (repeatable)
    #[arg(long, value_name = "CACHE")]
    pub(crate) cache_to: Vec<String>,
    /// Bring cache mounts that the store lacks from a registry's NAME, ./DIR, type=registry,ref=NAME or type=local,src=DIR
    /// (repeatable)
    #[arg(long, value_name = "CACHE")]
    pub(crate) cache_mounts_from: Vec<String>,
    /// Keep the cache mounts that steps used in a registry's NAME, ./DIR, type=registry,ref=NAME or type=local,dest=DIR
    /// (repeatable)
    #[arg(long, value_name = "CACHE")]
    pub(crate) cache_mounts_to: Vec<String>,
}

/// `rbuild cache`.
#[derive(Debug, Args)]
pub(crate) struct CacheVerbArgs {
    #[command(subcommand)]
    pub(crate) verb: CacheVerb,
}

/// What to do with a cache.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheVerb {
    /// Remove entries that were not written lately, or more than fit
    Prune(PruneArgs),
}

/// `rbuild cache prune`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["max_age", "max_size"])))]
pub(crate) struct PruneArgs {
    /// The cache: a name as in --cache-to type=registry,ref=NAME, or a directory as ./DIR
    #[arg(value_name = "REF")]
    pub(crate) cache: String,
    /// Remove entries that were not written within this time, as 168h
    #[arg(long, value_name = "DURATION")]
    pub(crate) max_age: Option<String>,
    /// Remove the entries written longest ago until the layers of the rest take no more than this, as 20g
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_size: Option<String>,
    /// Whose entries; default: default
    #[arg(long, value_name = "NAME")]
    pub(crate) scope: Option<String>,
    /// text: a sentence; json: one object
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}
