//! The kinds that Nexus writes or reads.

pub const METADATA: u16 = 0;
pub const NOTE: u16 = 1;
pub const LEGACY_DM: u16 = 4;
pub const DELETION: u16 = 5;
pub const SEAL: u16 = 13;
pub const DM: u16 = 14;
pub const GIFT_WRAP: u16 = 1059;
pub const COMMENT: u16 = 1111;
pub const JOB_TEXT: u16 = 5050;
pub const JOB_TEXT_RESULT: u16 = 6050;
pub const JOB_FEEDBACK: u16 = 7000;
pub const ZAP_REQUEST: u16 = 9734;
pub const ZAP_RECEIPT: u16 = 9735;
pub const RELAY_LIST: u16 = 10_002;
pub const DM_RELAYS: u16 = 10_050;
pub const AUTH: u16 = 22_242;
pub const WALLET_REQUEST: u16 = 23_194;
pub const WALLET_RESPONSE: u16 = 23_195;
pub const REMOTE_SIGNING: u16 = 24_133;
pub const HANDLER: u16 = 31_990;
pub const PROFILE: u16 = 39_200;
pub const STATE: u16 = 39_201;
pub const SCHEDULE: u16 = 39_202;
pub const TICK_REQUEST: u16 = 39_210;
pub const TICK_RESULT: u16 = 39_211;
