//! Locks and atomics. In tests, a model checker can switch threads at each use.

#[cfg(not(test))]
pub(crate) use std::sync::{
    Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

#[cfg(test)]
pub(crate) use checked::*;

#[cfg(test)]
pub(crate) mod checked {
    use std::cell::Cell;
    pub(crate) use std::sync::atomic::Ordering;
    use std::sync::{LockResult, TryLockError, TryLockResult};
    pub(crate) use std::sync::{MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard};

    thread_local! {
        /// Set while a model runs on this thread; shuttle runs all threads of a model on one.
        static IS_MODEL: Cell<bool> = const { Cell::new(false) };
    }

    /// Runs `test` with many schedules of its threads. A failing schedule is printed, for `shuttle::replay`.
    pub(crate) fn model(schedules: usize, test: impl Fn() + Send + Sync + 'static) {
        IS_MODEL.set(true);
        shuttle::check_pct(
            move || {
                IS_MODEL.set(true);
                test();
            },
            schedules,
            3,
        );
        IS_MODEL.set(false);
    }

    fn switch() {
        if IS_MODEL.get() {
            shuttle::thread::sleep(std::time::Duration::ZERO);
        }
    }

    fn locked<G>(try_lock: impl Fn() -> TryLockResult<G>, lock: impl Fn() -> LockResult<G>) -> LockResult<G> {
        if !IS_MODEL.get() {
            return lock();
        }
        shuttle::thread::sleep(std::time::Duration::ZERO);
        loop {
            match try_lock() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(error)) => return Err(error),
                Err(TryLockError::WouldBlock) => shuttle::thread::yield_now(),
            }
        }
    }

    #[derive(Default, Debug)]
    pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(std::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
            locked(|| self.0.try_lock(), || self.0.lock())
        }
    }

    #[derive(Default, Debug)]
    pub(crate) struct RwLock<T>(std::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
            locked(|| self.0.try_read(), || self.0.read())
        }

        pub(crate) fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
            locked(|| self.0.try_write(), || self.0.write())
        }
    }

    #[derive(Default, Debug)]
    pub(crate) struct AtomicBool(std::sync::atomic::AtomicBool);

    impl AtomicBool {
        pub(crate) fn load(&self, order: Ordering) -> bool {
            switch();
            self.0.load(order)
        }

        pub(crate) fn store(&self, value: bool, order: Ordering) {
            switch();
            self.0.store(value, order);
        }
    }

    #[derive(Default, Debug)]
    pub(crate) struct AtomicU64(std::sync::atomic::AtomicU64);

    impl AtomicU64 {
        pub(crate) const fn new(value: u64) -> Self {
            Self(std::sync::atomic::AtomicU64::new(value))
        }

        pub(crate) fn load(&self, order: Ordering) -> u64 {
            switch();
            self.0.load(order)
        }

        pub(crate) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
            switch();
            self.0.fetch_add(value, order)
        }
    }
}
