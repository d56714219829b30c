//! Common hardware.

use super::{Device, Efficiency, Fabric, Nic, NicKind, Peak};

/// Devices with published peaks. Shares of them are those of well-tuned training code; measure your own where you can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DevicePreset {
    /// NVIDIA V100 SXM2 32 GB.
    V100,
    /// NVIDIA A100 SXM4 40 GB.
    A100With40Gb,
    /// NVIDIA A100 SXM4 80 GB.
    A100,
    /// NVIDIA H100 SXM5 80 GB.
    H100,
    /// NVIDIA H200 141 GB.
    H200,
    /// NVIDIA B200 192 GB.
    B200,
    /// AMD MI300X 192 GB.
    Mi300x,
    /// NVIDIA GeForce RTX 4090 24 GB.
    Rtx4090,
}

struct Published {
    id: &'static str,
    name: &'static str,
    /// TFLOP/s, dense: f32 (TF32 where training uses it), 16-bit, 8-bit.
    tflops: [f64; 3],
    memory_gib: f64,
    memory_gbytes_per_s: f64,
    /// NVLink, Infinity Fabric or PCI Express, each way.
    fabric_gbytes_per_s: f64,
    /// Share of the peak that long products sustain.
    product: f64,
}

impl DevicePreset {
    /// All of them.
    pub const ALL: [DevicePreset; 8] = [
        DevicePreset::V100,
        DevicePreset::A100With40Gb,
        DevicePreset::A100,
        DevicePreset::H100,
        DevicePreset::H200,
        DevicePreset::B200,
        DevicePreset::Mi300x,
        DevicePreset::Rtx4090,
    ];

    /// The name in machine files.
    pub fn id(self) -> &'static str {
        self.published().id
    }

    /// The device.
    pub fn device(self) -> Device {
        let published = self.published();
        let [f32, bf16, fp8] = published.tflops.map(|tflops| tflops * 1e12);
        Device {
            name: published.name.to_owned(),
            peak: Peak { f32, bf16, fp8 },
            memory_bytes: (published.memory_gib * f64::from(1 << 30)) as u64,
            // A driver's context and the buffers of collectives.
            reserved_bytes: 2 << 30,
            fragmentation: 0.04,
            memory_bytes_per_s: published.memory_gbytes_per_s * 1e9,
            efficiency: Efficiency::typical(published.product),
        }
    }

    /// What joins such devices in a node.
    pub fn fabric(self) -> Fabric {
        // Eighty per cent of the way is what collective libraries report as bus bandwidth on all of these.
        Fabric::uniform(self.published().fabric_gbytes_per_s * 1e9, 0.8, 5e-6)
    }

    fn published(self) -> Published {
        let of = |id, name, tflops, memory_gib, memory_gbytes_per_s, fabric_gbytes_per_s, product| Published {
            id,
            name,
            tflops,
            memory_gib,
            memory_gbytes_per_s,
            fabric_gbytes_per_s,
            product,
        };
        match self {
            DevicePreset::V100 => of("v100", "V100 SXM2 32 GB", [15.7, 125.0, 0.0], 32.0, 900.0, 150.0, 0.65),
            DevicePreset::A100With40Gb => {
                of("a100-40gb", "A100 SXM4 40 GB", [156.0, 312.0, 0.0], 40.0, 1555.0, 300.0, 0.69)
            }
            DevicePreset::A100 => of("a100", "A100 SXM4 80 GB", [156.0, 312.0, 0.0], 80.0, 2039.0, 300.0, 0.69),
            DevicePreset::H100 => of("h100", "H100 SXM5 80 GB", [495.0, 989.0, 1979.0], 80.0, 3350.0, 450.0, 0.65),
            DevicePreset::H200 => of("h200", "H200 SXM 141 GB", [495.0, 989.0, 1979.0], 141.0, 4800.0, 450.0, 0.65),
            DevicePreset::B200 => of("b200", "B200 180 GB", [1125.0, 2250.0, 4500.0], 180.0, 8000.0, 900.0, 0.48),
            DevicePreset::Mi300x => of("mi300x", "MI300X 192 GB", [653.7, 1307.4, 2614.9], 192.0, 5300.0, 448.0, 0.5),
            DevicePreset::Rtx4090 => of("rtx4090", "GeForce RTX 4090", [82.6, 165.2, 330.3], 24.0, 1008.0, 25.0, 0.75),
        }
    }
}

impl Efficiency {
    /// Of well-tuned code on a device whose long products sustain `product` of the peak.
    pub fn typical(product: f64) -> Self {
        Self {
            product,
            product_backward: None,
            product_half: 0.0,
            grouped: 0.8 * product,
            attention: 0.8 * product,
            attention_backward: 0.7 * product,
            memory: 0.7,
            elementwise: None,
            permute: 0.5,
            loss: 0.3,
            update: None,
            operation_s: 5e-6,
            measured: None,
        }
    }
}

impl NicKind {
    /// A common card of this kind with what it really moves, 100 to 400 Gbit/s being printed on it.
    pub fn typical(self, count: usize) -> Nic {
        let (bytes_per_s, latency_s) = match self {
            NicKind::InfiniBand => (20e9, 5e-6),
            NicKind::Roce => (16e9, 8e-6),
            NicKind::Ethernet => (2.5e9, 50e-6),
        };
        Nic { kind: self, count, bytes_per_s, latency_s }
    }
}
