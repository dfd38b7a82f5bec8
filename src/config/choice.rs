//! The enumerations behind parameters that are one of a few names, and the names of devices.

/// A type whose values are parameters by their names.
pub trait Choice: Copy + 'static {
    /// The names, in the order in which messages list them.
    const NAMES: &'static [&'static str];
    /// The values, in the order of their names.
    const ALL: &'static [Self];

    /// The name of this value.
    fn name(self) -> &'static str;

    /// The value called `name`, or `None`.
    fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|choice| choice.name() == name)
    }
}

/// Defines enumerations with the names that parameters have for them.
macro_rules! choices {
    ($(
        $(#[$about:meta])+
        pub enum $Choice:ident {
            $( $(#[$meaning:meta])+ $Variant:ident = $name:literal, )+
        }
    )+) => {$(
        $(#[$about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $Choice {
            $( $(#[$meaning])+ $Variant, )+
        }

        impl $Choice {
            /// The name, as in parameters and on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $( Self::$Variant => $name, )+
                }
            }
        }

        impl Choice for $Choice {
            const NAMES: &'static [&'static str] = &[$($name),+];
            const ALL: &'static [Self] = &[$(Self::$Variant),+];

            fn name(self) -> &'static str {
                self.name()
            }
        }
    )+};
}

choices! {
    /// Where proprioception comes from.
    pub enum ProprioSource {
        /// sensor_msgs/JointState on `joint_states`, matched by name.
        JointStates = "joint_states",
        /// geometry_msgs/PoseStamped on `ee_pose` and std_msgs/Float32 on `gripper`, for each arm.
        EePose = "ee_pose",
        /// std_msgs/Float32MultiArray on `proprio`, in the checkpoint's channels and order.
        Proprio = "proprio",
    }

    /// How a checkpoint lays out the first two columns of a rotation matrix as six numbers.
    pub enum RotationLayout {
        /// One column after the other: r11 r21 r31 r12 r22 r32, as LIBERO's data and LeRobot.
        Columns = "columns",
        /// Row by row: r11 r12 r21 r22 r31 r32, as X-VLA's own data tools.
        Rows = "rows",
    }

    /// What a checkpoint takes for the robot's state.
    pub enum ProprioFeed {
        /// What the robot measures.
        Measured = "measured",
        /// The command that was due last, and what the robot measures before the first.
        LastCommand = "last_command",
        /// Zeros, whatever the robot measures.
        Zeros = "zeros",
    }

    /// What stands for rotations before the first command, where the state is the last command.
    pub enum FirstRotation {
        /// What the robot measures.
        Measured = "measured",
        /// No rotation.
        Identity = "identity",
    }

    /// What a gripper does.
    pub enum Grip {
        /// It opens.
        Open = "open",
        /// It closes.
        Closed = "closed",
    }

    /// The unit that a checkpoint has for a joint.
    pub enum JointUnit {
        /// Radians or metres, as sensor_msgs/JointState has them.
        Si = "si",
        /// Degrees.
        Degree = "deg",
        /// Millimetres.
        Millimetre = "mm",
    }

    /// What becomes of a plan besides that it is published.
    pub enum OutputMode {
        /// Nothing: somebody else plays it.
        Chunk = "chunk",
        /// It is played: a command is published on every tick.
        Stream = "stream",
    }

    /// How often a trajectory is published.
    pub enum TrajectoryPer {
        /// On every tick, with the command of that tick.
        Tick = "tick",
        /// Once per chunk, with what is left of its plan.
        Chunk = "chunk",
    }

    /// What the robot does when something is wrong.
    pub enum Reaction {
        /// The last command is repeated until all is well again.
        Hold = "hold",
        /// Nothing more is commanded until a person releases the stop.
        Stop = "stop",
    }

    /// What is done while the configured backend is lost and the fallback answers.
    pub enum OnBackend {
        /// The plans of the fallback are played.
        GoOn = "go_on",
        /// The last command is repeated.
        Hold = "hold",
        /// Nothing more is commanded until a person releases the stop.
        Stop = "stop",
    }

    /// What happens to a command beyond a limit.
    pub enum GuardMode {
        /// It is refused.
        Reject = "reject",
        /// It is brought within its limits where that is possible, and refused otherwise.
        Clamp = "clamp",
    }

    /// What a drill does to every inference.
    pub enum DrillFault {
        /// Nothing.
        None = "none",
        /// It makes the inference fail.
        Error = "error",
        /// It makes every action NaN.
        Nan = "nan",
        /// It keeps the inference from ending until something else is set.
        Hang = "hang",
        /// It makes the thread panic.
        Panic = "panic",
    }

    /// The message type that carries a camera's images.
    pub enum Transport {
        /// sensor_msgs/Image on `<name>/image`.
        Raw = "raw",
        /// sensor_msgs/CompressedImage on `<name>/image/compressed`.
        Compressed = "compressed",
    }

    /// The precision the network computes in.
    pub enum Dtype {
        /// IEEE single precision, 32 bits.
        F32 = "f32",
        /// IEEE half precision, 16 bits.
        F16 = "f16",
        /// bfloat16, 16 bits.
        Bf16 = "bf16",
    }

    /// What takes over when the configured backend cannot run or fails.
    pub enum Fallback {
        /// The libtorch backend, on the same device if that is usable, else on the CPU.
        Libtorch = "libtorch",
        /// Nothing takes over; the failure is an error.
        None = "none",
    }

    /// Where images are resized and normalised.
    pub enum Preprocess {
        /// On the CPU.
        Host = "host",
        /// On the network's device if the backend supports it, otherwise on the CPU.
        Device = "device",
    }
}

impl std::str::FromStr for Dtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::parse(name).ok_or_else(|| format!("`{name}` is not a dtype: expected {}", Self::NAMES.join(", ")))
    }
}

/// A device, named `cpu`, `cuda` or `cuda:N` in parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU of the host.
    Cpu,
    /// An NVIDIA GPU, by its CUDA index.
    Cuda(usize),
}

impl std::str::FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match (name, name.strip_prefix("cuda:").map(str::parse)) {
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(Ok(index))) => Ok(Self::Cuda(index)),
            _ => Err(format!("`{name}` is not a device: expected cpu, cuda or cuda:N")),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}
