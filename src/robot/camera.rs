//! One camera: its latest frames, undecoded, and whether they can be trusted.

use super::frame_loss::FrameLoss;
use super::time::{Now, stamps_lag};
use super::topic::Topic;
use crate::config::{CameraConfig, Named, SyncConfig, Transport, ViewSettings};
use crate::error::InputError;
use crate::transform::decode;
use crate::types::{EncodedImage, Stamp, Stamped};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The most bytes of undecoded images kept per camera, so that a camera whose frames take longer still finds those of its
/// time: 72 frames of 640x480 rgb8. Beyond it, frames are thinned out.
const BUDGET_BYTES: usize = 64 << 20;
/// The most frames kept per camera, for images that are small.
const MOST: usize = 256;
/// A stamp that lies back by more than this is a stray one or comes from a clock that was set.
const RESET_MS: f64 = 1_000.0;
/// Stamps in a row that lie back so far, after which the clock was set, so that newer frames mean nothing.
const CONFIRMED: u32 = 3;
/// Images in a row that could not be decoded, after which the camera counts as broken.
const BROKEN: u32 = 3;
/// How long a broken camera that is not required is left out before another of its images is tried.
const REST: Duration = Duration::from_secs(1);

/// A camera with its latest frames.
#[derive(Debug)]
pub struct Camera {
    /// The camera's name in the deployment.
    pub name: String,
    /// The counts of its topic.
    pub topic: Topic,
    /// What became of its frames.
    pub frames: FrameCounts,
    /// The estimate of frames lost in transit.
    pub loss: FrameLoss,
    settings: CameraConfig,
    frozen_after: Option<u64>,
    /// How far apart frames may be to belong together.
    tolerance: Duration,
    ring: VecDeque<Frame>,
    newest: Option<Stamp>,
    /// The stamp of the latest frame, which need not be the newest.
    last_stamp: Option<Stamp>,
    /// When the latest frame came that did not repeat one before.
    last_new: Option<Instant>,
    used_until: Option<Stamp>,
    same_stamp: u64,
    same_bytes: u64,
    /// The bytes of the latest frame, which are shared with it.
    last_bytes: Option<Bytes>,
    undecodable: u32,
    last_undecodable: Option<Instant>,
    /// Stamps in a row that lay far back.
    set_back: u32,
}

/// What became of the frames that were received and not invalid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounts {
    /// Frames on which an inference began.
    pub used: u64,
    /// Frames that newer ones replaced, or that no frame of another camera matched.
    pub skipped: u64,
    /// Frames that repeated the stamp of the one before, or the bytes of a frozen camera.
    pub repeated: u64,
}

#[derive(Debug)]
struct Frame {
    stamp: Stamp,
    received: Instant,
    image: EncodedImage,
}

/// Whether a camera can be acted on.
#[derive(Clone, Debug, PartialEq)]
pub enum CameraState {
    /// Its frames are as fresh as they must be.
    Fresh,
    /// Nothing has come yet.
    Waiting,
    /// No new frame has come for longer than its maximum age.
    Silent {
        /// Time since the last one, seconds.
        seconds: f64,
    },
    /// Frames come, and their stamps are older than its maximum age.
    Behind {
        /// Age of the newest stamp, seconds.
        seconds: f64,
    },
    /// Frames come, and nothing in them changes.
    Frozen {
        /// The number of frames that are alike.
        frames: u64,
        /// What is the same in them.
        what: &'static str,
    },
    /// Frames come, and none can be decoded.
    Broken,
}

impl Camera {
    /// A camera of which nothing has been received.
    pub fn new(camera: &Named<CameraConfig>, sync: &SyncConfig) -> Self {
        Self {
            name: camera.name.clone(),
            topic: Topic::new(topic_of(camera)),
            frames: FrameCounts::default(),
            loss: FrameLoss::new(camera.settings.rate_hz),
            settings: camera.settings,
            // A single frame has nothing to be compared with.
            frozen_after: sync.frozen_after.map(|frames| frames.max(2)),
            tolerance: sync.tolerance,
            ring: VecDeque::new(),
            newest: None,
            last_stamp: None,
            last_new: None,
            used_until: None,
            same_stamp: 0,
            same_bytes: 0,
            last_bytes: None,
            undecodable: 0,
            last_undecodable: None,
            set_back: 0,
        }
    }

    /// Whether the policy stops without this camera.
    pub fn is_required(&self) -> bool {
        self.settings.required
    }

    /// What the model sees of its images.
    pub fn view(&self) -> ViewSettings {
        self.settings.view
    }

    /// Takes a frame. A missing stamp is replaced by the time of receipt.
    ///
    /// # Errors
    /// [`InputError::Image`] for an image that no decoding can save, [`InputError::Ahead`] for a stamp of another clock.
    pub(super) fn take_frame(&mut self, image: EncodedImage, stamp: Option<Stamp>, now: Now) -> Result<(), InputError> {
        if let Err(fault) = decode::check(&self.topic.name, &image, &self.settings.view) {
            // It cannot be used, and yet it was not lost on the way.
            if let Some(stamp) = stamp.filter(|stamp| self.topic.check_stamp(*stamp, now).is_ok()) {
                self.loss.arrived(stamp);
            }
            return Err(fault);
        }
        if stamp.is_none() {
            self.topic.count_unstamped(now);
        }
        let stamp = stamp.unwrap_or(now.stamp);
        self.topic.check_stamp(stamp, now)?;
        if self.newest.is_some_and(|newest| newest.ms_since(stamp) > RESET_MS) {
            self.set_back += 1;
            if self.set_back < CONFIRMED {
                self.frames.skipped += 1;
                return Ok(());
            }
            self.clear();
        }
        self.set_back = 0;
        if self.repeats(&image, stamp) {
            self.frames.repeated += 1;
            return Ok(());
        }
        self.newest = self.newest.max(Some(stamp));
        self.last_new = Some(now.at);
        if self.used_until.is_some_and(|used| stamp <= used) {
            self.frames.skipped += 1;
            return Ok(());
        }
        let at = self.ring.partition_point(|frame| frame.stamp < stamp);
        self.ring.insert(at, Frame { stamp, received: now.at, image });
        self.thin_out();
        Ok(())
    }

    /// Keeps the frames within their budget. The one whose neighbours are closest together goes, if these are within the
    /// tolerance, so that a frame for every moment remains; else the oldest.
    fn thin_out(&mut self) {
        let tolerance_ns = i64::try_from(self.tolerance.as_nanos()).unwrap_or(i64::MAX);
        while self.ring.len() > MOST || (self.ring.len() > 2 && self.bytes() > BUDGET_BYTES) {
            let neighbours = self.ring.iter().zip(self.ring.iter().skip(2)).enumerate();
            let gaps = neighbours.map(|(at, (before, after))| (after.stamp.nanos - before.stamp.nanos, at + 1));
            let closest = gaps.min().filter(|(gap_ns, _)| *gap_ns <= tolerance_ns);
            self.ring.remove(closest.map_or(0, |(_, at)| at));
            self.frames.skipped += 1;
        }
    }

    fn bytes(&self) -> usize {
        self.ring.iter().map(|frame| frame.image.data.len()).sum()
    }

    /// Notes what a frame has in common with the one before. Returns whether it must not be used for that.
    fn repeats(&mut self, image: &EncodedImage, stamp: Stamp) -> bool {
        let is_known = self.last_stamp == Some(stamp)
            || self.newest == Some(stamp)
            || self.ring.iter().any(|frame| frame.stamp == stamp);
        self.last_stamp = Some(stamp);
        if is_known {
            self.same_stamp += 1;
        } else {
            self.same_stamp = 0;
            self.loss.arrived(stamp);
        }
        let Some(frozen_after) = self.frozen_after else { return is_known };
        // This ends at the first byte that differs, which comes early in pictures of a real sensor.
        let is_same = self.last_bytes.replace(image.data.clone()).as_ref() == Some(&image.data);
        self.same_bytes = if is_same { self.same_bytes + 1 } else { 0 };
        let is_frozen = self.same_bytes.max(self.same_stamp) + 1 >= frozen_after;
        if is_frozen {
            self.skip_until(None);
        }
        is_known || is_frozen
    }

    /// Forgets frames and stamps, because ROS time or the camera's clock has jumped.
    pub(super) fn clear(&mut self) {
        self.skip_until(None);
        self.newest = None;
        self.last_new = None;
        self.used_until = None;
        self.loss = FrameLoss::new(self.settings.rate_hz);
    }

    /// Drops frames that are too old to be used.
    pub(super) fn drop_old(&mut self, now: Now) {
        let Some(max_age) = self.settings.max_age else { return };
        let is_old = |frame: &Frame| is_older(frame.stamp, now, max_age) || now.is_past(frame.received, Some(max_age));
        while self.ring.front().is_some_and(is_old) {
            self.ring.pop_front();
            self.frames.skipped += 1;
        }
    }

    /// The stamps of the frames that may be used, ascending. A stamp that lies ahead waits until its time has come.
    pub(super) fn stamps(&self, now: Now) -> Vec<Stamp> {
        let max_age = self.settings.max_age;
        let is_fresh = |frame: &&Frame| {
            frame.stamp <= now.stamp
                && !now.is_past(frame.received, max_age)
                && max_age.is_none_or(|max_age| !is_older(frame.stamp, now, max_age))
        };
        self.ring.iter().filter(is_fresh).map(|frame| frame.stamp).collect()
    }

    /// Whether a frame closer to `reference` than the one with `stamp` is about to come: the camera's period tells when
    /// the next is due, and it is not overdue.
    pub(super) fn is_about_to_beat(&self, stamp: Stamp, reference: Stamp, now: Now) -> bool {
        let (Some(newest), Some(received), Some(period)) = (self.newest, self.last_new, self.loss.period()) else {
            return false;
        };
        let period_ns = i64::try_from(period.as_nanos()).unwrap_or(i64::MAX);
        let expected = Stamp { nanos: newest.nanos.saturating_add(period_ns) };
        let is_closer = expected.nanos.abs_diff(reference.nanos) < stamp.nanos.abs_diff(reference.nanos);
        is_closer && now.at.saturating_duration_since(received) < period * 3 / 2
    }

    /// Takes the frame with `stamp` out, and drops those before it.
    pub(super) fn use_frame(&mut self, stamp: Stamp) -> Option<Stamped<EncodedImage>> {
        let at = self.ring.iter().position(|frame| frame.stamp == stamp)?;
        let frame = self.ring.remove(at)?;
        self.frames.used += 1;
        self.used_until = Some(stamp);
        self.skip_until(Some(stamp));
        Some(Stamped { value: frame.image, stamp })
    }

    /// Drops frames up to `stamp`, or all.
    fn skip_until(&mut self, stamp: Option<Stamp>) {
        let before = self.ring.len();
        self.ring.retain(|frame| stamp.is_some_and(|stamp| frame.stamp > stamp));
        self.frames.skipped += (before - self.ring.len()) as u64;
    }

    /// Corrects the counts: no inference began on the frame used last.
    pub(super) fn superseded(&mut self) {
        self.frames.used = self.frames.used.saturating_sub(1);
        self.frames.skipped += 1;
    }

    /// Notes that the frame used last could be decoded, or why not.
    pub(super) fn decoded(&mut self, error: Option<&InputError>, now: Now) -> Option<String> {
        let Some(error) = error else {
            self.undecodable = 0;
            return None;
        };
        self.undecodable = self.undecodable.saturating_add(1);
        self.last_undecodable = Some(now.at);
        self.frames.used = self.frames.used.saturating_sub(1);
        self.topic.drop_invalid(error, now)
    }

    /// Whether this camera can be acted on.
    pub fn state(&self, now: Now) -> CameraState {
        let (Some(newest), Some(last_new)) = (self.newest, self.last_new) else { return CameraState::Waiting };
        let max_age = self.settings.max_age;
        let last_received = self.topic.last_received.unwrap_or(last_new);
        let is_frozen = |alike: u64| self.frozen_after.is_some_and(|frozen_after| alike + 1 >= frozen_after);
        if now.is_past(last_received, max_age) {
            CameraState::Silent { seconds: seconds_since(last_received, now) }
        } else if is_frozen(self.same_stamp) {
            CameraState::Frozen { frames: self.same_stamp + 1, what: "stamp" }
        } else if is_frozen(self.same_bytes) {
            CameraState::Frozen { frames: self.same_bytes + 1, what: "bytes" }
        } else if now.is_past(last_new, max_age) {
            CameraState::Silent { seconds: seconds_since(last_new, now) }
        } else if let Some(max_age) = max_age.filter(|max_age| is_older(newest, now, *max_age)) {
            match stamps_lag(newest, last_new, now, max_age) {
                true => CameraState::Behind { seconds: now.stamp.ms_since(newest) / 1e3 },
                false => CameraState::Silent { seconds: seconds_since(last_new, now) },
            }
        } else if self.undecodable >= BROKEN {
            CameraState::Broken
        } else {
            CameraState::Fresh
        }
    }

    /// Whether its images could lately not be decoded, so that an observation is better made without it.
    pub(super) fn rests(&self, now: Now) -> bool {
        let is_recent = self.last_undecodable.is_some_and(|last| now.at.saturating_duration_since(last) < REST);
        self.undecodable >= BROKEN && is_recent
    }

    /// Age of the newest stamp, ms, negative if it lies ahead; `None` before the first frame.
    pub fn age_ms(&self, now: Now) -> Option<f64> {
        self.newest.map(|newest| now.stamp.ms_since(newest))
    }

    /// The longest that the camera may be silent or behind before its frames count as too old.
    pub fn max_age(&self) -> Option<Duration> {
        self.settings.max_age
    }

    /// The number of frames that wait to be used.
    pub fn waiting(&self) -> usize {
        self.ring.len()
    }
}

/// The topic of a camera's images, relative to the node's namespace.
pub fn topic_of(camera: &Named<CameraConfig>) -> String {
    match camera.settings.transport {
        Transport::Raw => format!("{}/image", camera.name),
        Transport::Compressed => format!("{}/image/compressed", camera.name),
    }
}

fn is_older(stamp: Stamp, now: Now, max_age: Duration) -> bool {
    now.stamp.ms_since(stamp) > max_age.as_secs_f64() * 1e3
}

fn seconds_since(then: Instant, now: Now) -> f64 {
    now.at.saturating_duration_since(then).as_secs_f64()
}
