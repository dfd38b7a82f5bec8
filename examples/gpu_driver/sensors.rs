//! What a robot sends: cameras, state, an instruction.

use crate::witness::now_ns;
use anyhow::{Result, anyhow};
use r2r::sensor_msgs::msg::Image;
use r2r::std_msgs::msg::{Float32MultiArray, String as Text};
use r2r::{NativeMsg, Node, Publisher, QosProfile};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;
/// Pictures of a camera before they come again.
const PICTURES: usize = 16;
/// Pixels by which the scene moves from one picture to the next.
const MOTION: u32 = 12;
/// The time in which the pictures are drawn.
const DRAWING: Duration = Duration::from_millis(500);
const STATE_PERIOD: Duration = Duration::from_millis(10);
const INSTRUCTION: &str = "put the red block on the plate";

/// The publishers of a robot that does not send yet.
pub struct Publishers {
    cameras: Vec<Publisher<Image>>,
    state: Publisher<Float32MultiArray>,
    instruction: Publisher<Text>,
}

impl Publishers {
    /// Advertises `<camera>/image`, `proprio` and `instruction`, with the QoS of sensor drivers.
    pub fn open(node: &mut Node, cameras: &[String]) -> Result<Self> {
        let open = |name: &String| node.create_publisher(&format!("{name}/image"), QosProfile::sensor_data());
        let cameras = cameras.iter().map(open).collect::<Result<_, _>>()?;
        let latched = QosProfile::default().keep_last(1).reliable().transient_local();
        Ok(Self {
            cameras,
            state: node.create_publisher("proprio", QosProfile::sensor_data())?,
            instruction: node.create_publisher("instruction", latched)?,
        })
    }

    /// Whether somebody listens to every camera and to the state.
    pub fn are_heard(&self) -> bool {
        let cameras = self.cameras.iter().map(Publisher::get_inter_process_subscription_count);
        cameras.chain([self.state.get_inter_process_subscription_count()]).all(|count| count.is_ok_and(|n| n > 0))
    }

    /// Starts to send: each camera from a thread of its own, all at the same moments.
    pub fn start(self, rate_hz: f64, state_channels: usize) -> Result<Sensors> {
        self.instruction.publish(&Text { data: INSTRUCTION.to_owned() })?;
        let is_over = Arc::new(AtomicBool::new(false));
        let period = Duration::try_from_secs_f64(1.0 / rate_hz)?;
        let start = Instant::now() + DRAWING;
        let cameras = self.cameras.into_iter().enumerate().map(|(index, publisher)| {
            let pace = Pace { start, period, is_over: is_over.clone() };
            spawn(format!("camera {index}"), move || film(&publisher, index, &pace))
        });
        let cameras = cameras.collect::<Result<_>>()?;
        let pace = Pace { start, period: STATE_PERIOD, is_over: is_over.clone() };
        let state = spawn("state".to_owned(), move || sway(&self.state, state_channels, &pace))?;
        Ok(Sensors { is_over, cameras, state })
    }
}

fn spawn(name: String, run: impl FnOnce() -> Result<u64> + Send + 'static) -> Result<JoinHandle<Result<u64>>> {
    Ok(std::thread::Builder::new().name(name).spawn(run)?)
}

/// A robot that sends.
pub struct Sensors {
    is_over: Arc<AtomicBool>,
    cameras: Vec<JoinHandle<Result<u64>>>,
    state: JoinHandle<Result<u64>>,
}

impl Sensors {
    /// Stops sending; the number of frames that each camera has sent.
    pub fn end(self) -> Result<Vec<u64>> {
        self.is_over.store(true, Ordering::Relaxed);
        let join = |thread: JoinHandle<Result<u64>>| thread.join().map_err(|_| anyhow!("a sensor panicked"))?;
        join(self.state)?;
        self.cameras.into_iter().map(join).collect()
    }
}

/// When a sensor sends.
struct Pace {
    start: Instant,
    period: Duration,
    is_over: Arc<AtomicBool>,
}

impl Pace {
    /// Waits for the moment of message `number`; `false` once it is over. Moments are absolute, so that lateness does not
    /// add up.
    fn wait_for(&self, number: u64) -> bool {
        let due = self.start + self.period.mul_f64(number as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        !self.is_over.load(Ordering::Relaxed)
    }
}

/// Sends pictures, stamped with the moment at which each is handed to the middleware. Returns their number.
fn film(publisher: &Publisher<Image>, camera: usize, pace: &Pace) -> Result<u64> {
    let mut pictures: Vec<_> = (0..PICTURES).map(|number| message(&picture(camera, number))).collect();
    let mut sent = 0;
    while pace.wait_for(sent) {
        let number = usize::try_from(sent)? % PICTURES;
        let picture = pictures.get_mut(number).ok_or_else(|| anyhow!("picture {number} is not there"))?;
        let now_ns = now_ns();
        picture.header.stamp.sec = i32::try_from(now_ns / 1_000_000_000)?;
        picture.header.stamp.nanosec = u32::try_from(now_ns % 1_000_000_000)?;
        publisher.publish_native(picture)?;
        sent += 1;
    }
    Ok(sent)
}

/// Sends a state that sways. Returns the number of messages.
fn sway(publisher: &Publisher<Float32MultiArray>, channels: usize, pace: &Pace) -> Result<u64> {
    let mut sent = 0;
    while pace.wait_for(sent) {
        let value = |channel: usize| (0.3 * (0.01 * sent as f64 + channel as f64).sin()) as f32;
        let data = (0..channels).map(value).collect();
        publisher.publish(&Float32MultiArray { data, ..Float32MultiArray::default() })?;
        sent += 1;
    }
    Ok(sent)
}

/// An image as the middleware takes it, so that sending it copies nothing more.
fn message(pixels: &[u8]) -> NativeMsg<Image> {
    let mut message = NativeMsg::<Image>::new();
    (message.width, message.height, message.step) = (WIDTH, HEIGHT, 3 * WIDTH);
    message.encoding.assign("rgb8");
    message.header.frame_id.assign("camera");
    message.data.update(pixels);
    message
}

/// A scene of waves and a square that move, under a sensor's noise; rgb8.
fn picture(camera: usize, number: usize) -> Vec<u8> {
    let (shift, mut noise) = (number as u32 * MOTION, (camera * PICTURES + number) as u32 | 0x9E37_0000);
    let mut pixels = Vec::with_capacity((WIDTH * HEIGHT * 3) as usize);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            noise ^= noise << 13;
            noise ^= noise >> 17;
            noise ^= noise << 5;
            let is_square = x.wrapping_sub(shift) < 80 && (200..280).contains(&y);
            let wave = (((x + shift) as f32 * 0.02).sin() + (y as f32 * 0.03 + camera as f32).cos()) * 50.0 + 120.0;
            let [red, green, blue] = if is_square { [200, 40, 40] } else { [wave as u8, (y / 2) as u8, (x / 3) as u8] };
            pixels.extend([red, green, blue].map(|value: u8| value.saturating_add((noise >> 28) as u8)));
        }
    }
    pixels
}
