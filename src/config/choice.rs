//! Parameters that are one of a few names, and the names of devices.

/// A parameter that is one of a few names.
pub trait Choice: Copy + 'static {
    /// The names, in the order in which they are told.
    const NAMES: &'static [&'static str];
    /// What they stand for, in the same order.
    const ALL: &'static [Self];

    /// The name of this one.
    fn name(self) -> &'static str;

    /// What `name` stands for, if it is one of the names.
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
        /// geometry_msgs/PoseStamped on `ee_pose` and std_msgs/Float32 on `gripper`.
        EePose = "ee_pose",
        /// std_msgs/Float32MultiArray on `proprio`, as the checkpoint wants it.
        Proprio = "proprio",
    }

    /// How a camera's images travel.
    pub enum Transport {
        /// sensor_msgs/Image on `camera_<i>/image`.
        Raw = "raw",
        /// sensor_msgs/CompressedImage on `camera_<i>/image/compressed`.
        Compressed = "compressed",
    }

    /// The precision the network computes in.
    pub enum Dtype {
        /// IEEE single.
        F32 = "f32",
        /// IEEE half.
        F16 = "f16",
        /// bfloat16.
        Bf16 = "bf16",
    }

    /// What takes over when the configured backend cannot run or fails.
    pub enum Fallback {
        /// libtorch, on the same device if that is usable, else on the CPU.
        Libtorch = "libtorch",
        /// Nothing: the failure is an error.
        None = "none",
    }

    /// Where images are resized and normalised.
    pub enum Preprocess {
        /// On the CPU.
        Host = "host",
        /// Where the network runs, by backends that can; on the CPU otherwise.
        Device = "device",
    }
}

impl std::str::FromStr for Dtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::parse(name).ok_or_else(|| format!("`{name}` is not a dtype: expected {}", Self::NAMES.join(", ")))
    }
}

/// A device, by the name people give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The host.
    Cpu,
    /// An NVIDIA GPU by index.
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
