//! The one way in and out: it leaves the interpreter, words errors as exceptions, and refuses a forked child.

use bursar_load::LoadError;
use bursar_server::{ActivateError, AskError, StartError};
use bursar_store::{IndexError, OpenError, ReadError};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// What went wrong, by the name of the exception it becomes.
pub(crate) enum Wrong {
    /// A `ValueError`: the question is wrong.
    Question(String),
    /// A class of `bursar.errors`.
    Named(&'static str, String),
}

impl Wrong {
    /// The data plane cannot do what it was asked.
    pub(crate) fn core(message: impl ToString) -> Self {
        Self::Named("CoreError", message.to_string())
    }

    fn bad_policy(mistakes: &[String]) -> Self {
        Self::Named("BadPolicy", mistakes.join("\n"))
    }

    fn into_exception(self, py: Python<'_>) -> PyErr {
        match self {
            Self::Question(message) => PyValueError::new_err(message),
            Self::Named(class, message) => {
                let class = py.import("bursar.errors").and_then(|errors| errors.getattr(class));
                match class.and_then(|class| class.call1((message,))) {
                    Ok(exception) => PyErr::from_value(exception),
                    Err(error) => error,
                }
            }
        }
    }
}

/// Does the work away from the interpreter, so that no other Python thread waits for it.
pub(crate) fn through<R: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<R, Wrong> + Send,
) -> PyResult<R> {
    py.detach(work).map_err(|wrong| wrong.into_exception(py))
}

/// The process that something belongs to: its threads do not live on in a forked child.
pub(crate) struct Home(u32);

impl Home {
    /// The process that asks.
    pub(crate) fn here() -> Self {
        Self(std::process::id())
    }

    /// Refuses a process that is not home.
    pub(crate) fn check(&self) -> PyResult<()> {
        if self.is_here() {
            return Ok(());
        }
        Err(PyRuntimeError::new_err(format!(
            "this was started in process {} and its threads do not live in a forked child \
             (process {}); start one after the fork",
            self.0,
            std::process::id()
        )))
    }

    /// Whether this process is home.
    pub(crate) fn is_here(&self) -> bool {
        self.0 == std::process::id()
    }
}

impl From<AskError> for Wrong {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Invalid { .. } | AskError::NotOnHandClock => {
                Self::Question(error.to_string())
            }
            AskError::Unknown(_) => Self::Named("UnknownReservation", error.to_string()),
            AskError::Stopped | AskError::Failed(_) => Self::core(error),
        }
    }
}

impl From<LoadError> for Wrong {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Wrong(why) => Self::Question(why),
            LoadError::Denied(_) => Self::Named("LoadDenied", error.to_string()),
            other => Self::core(other),
        }
    }
}

impl From<StartError> for Wrong {
    fn from(error: StartError) -> Self {
        let class = match &error {
            // A line for each, so that whoever has the file can say where.
            StartError::BadPolicy(mistakes) => return Self::bad_policy(mistakes),
            StartError::Store(OpenError::Locked { .. }) => "DataDirectoryLocked",
            StartError::Store(
                OpenError::Corrupt { .. }
                | OpenError::IndexAhead { .. }
                | OpenError::Foreign { .. },
            ) => "LedgerCorrupt",
            StartError::Store(_) | StartError::Listen(_) | StartError::Failed(_) => "CoreError",
        };
        Self::Named(class, error.to_string())
    }
}

impl From<ActivateError> for Wrong {
    fn from(error: ActivateError) -> Self {
        match error {
            ActivateError::BadPolicy(mistakes) => Self::bad_policy(&mistakes),
            ActivateError::Ask(error) => error.into(),
        }
    }
}

impl From<IndexError> for Wrong {
    fn from(error: IndexError) -> Self {
        Self::core(error)
    }
}

impl From<ReadError> for Wrong {
    fn from(error: ReadError) -> Self {
        Self::Named("LedgerCorrupt", error.to_string())
    }
}
