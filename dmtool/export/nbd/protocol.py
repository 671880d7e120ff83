# SPDX-License-Identifier: Apache-2.0
"""Numbers and layouts of the NBD protocol: the NetworkBlockDevice project's doc/proto.md.

All integers are big-endian. Names are proto.md's without the NBD_ prefix.
"""

from __future__ import annotations

import errno
from struct import Struct

# -- handshake ------------------------------------------------------------------------------------

INIT_MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
OPT_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
REP_MAGIC = 0x0003E889045565A9

FLAG_FIXED_NEWSTYLE = 1 << 0
FLAG_NO_ZEROES = 1 << 1

OPT_EXPORT_NAME = 1
OPT_ABORT = 2
OPT_LIST = 3
OPT_STARTTLS = 5
OPT_INFO = 6
OPT_GO = 7
OPT_STRUCTURED_REPLY = 8
OPT_LIST_META_CONTEXT = 9
OPT_SET_META_CONTEXT = 10
OPT_EXTENDED_HEADERS = 11

REP_ACK = 1
REP_SERVER = 2
REP_INFO = 3
REP_META_CONTEXT = 4
REP_ERR_UNSUP = (1 << 31) + 1
REP_ERR_POLICY = (1 << 31) + 2
REP_ERR_INVALID = (1 << 31) + 3
REP_ERR_UNKNOWN = (1 << 31) + 6
REP_ERR_SHUTDOWN = (1 << 31) + 7
REP_ERR_TOO_BIG = (1 << 31) + 9

INFO_EXPORT = 0
INFO_NAME = 1
INFO_DESCRIPTION = 2
INFO_BLOCK_SIZE = 3

GREETING = Struct(">QQH")  # INIT_MAGIC, OPT_MAGIC, flags
CLIENT_FLAGS = Struct(">I")
OPTION = Struct(">QII")  # OPT_MAGIC, option, length
OPTION_REPLY = Struct(">QIII")  # REP_MAGIC, option, type, length
EXPORT = Struct(">QH")  # size in bytes, transmission flags
EXPORT_ZEROES = bytes(124)
INFO_EXPORT_REPLY = Struct(">HQH")
INFO_BLOCK_SIZE_REPLY = Struct(">HIII")  # minimum, preferred, maximum
U16 = Struct(">H")
U32 = Struct(">I")

STRING_MOST = 4096  # bytes of any string

BASE_ALLOCATION = b"base:allocation"
BASE_ALLOCATION_ID = 1

# -- transmission ---------------------------------------------------------------------------------

FLAG_HAS_FLAGS = 1 << 0
FLAG_READ_ONLY = 1 << 1
FLAG_SEND_FLUSH = 1 << 2
FLAG_SEND_FUA = 1 << 3
FLAG_SEND_TRIM = 1 << 5
FLAG_SEND_WRITE_ZEROES = 1 << 6
FLAG_SEND_DF = 1 << 7
FLAG_CAN_MULTI_CONN = 1 << 8
FLAG_SEND_CACHE = 1 << 10

CMD_READ = 0
CMD_WRITE = 1
CMD_DISC = 2
CMD_FLUSH = 3
CMD_TRIM = 4
CMD_CACHE = 5
CMD_WRITE_ZEROES = 6
CMD_BLOCK_STATUS = 7

CMD_FLAG_FUA = 1 << 0
CMD_FLAG_NO_HOLE = 1 << 1
CMD_FLAG_DF = 1 << 2
CMD_FLAG_REQ_ONE = 1 << 3

REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

REPLY_FLAG_DONE = 1
REPLY_TYPE_NONE = 0
REPLY_TYPE_OFFSET_DATA = 1
REPLY_TYPE_OFFSET_HOLE = 2
REPLY_TYPE_BLOCK_STATUS = 5
REPLY_TYPE_ERROR = (1 << 15) + 1
REPLY_TYPE_ERROR_OFFSET = (1 << 15) + 2

REQUEST = Struct(">IHH8sQI")  # REQUEST_MAGIC, flags, command, cookie, offset, length
SIMPLE_REPLY = Struct(">II8s")  # SIMPLE_REPLY_MAGIC, error, cookie
CHUNK = Struct(">IHH8sI")  # STRUCTURED_REPLY_MAGIC, flags, type, cookie, length of payload
DATA_CHUNK = Struct(">IHH8sIQ")  # the same, and the offset of the data that follows
HOLE = Struct(">QI")  # payload of OFFSET_HOLE
ERROR = Struct(">IH")  # begin of the payload of ERROR and ERROR_OFFSET; message, offset follow
U64 = Struct(">Q")
DESCRIPTOR = Struct(">II")  # length, status

BLOCK_MOST = 32 << 20  # bytes of one read or write

# The errors that may be in a reply.
EPERM = 1
EIO = 5
ENOMEM = 12
EINVAL = 22
ENOSPC = 28
EOVERFLOW = 75
ENOTSUP = 95
ESHUTDOWN = 108

_ERRORS = {
    errno.EPERM: EPERM,
    errno.EROFS: EPERM,
    errno.ENOMEM: ENOMEM,
    errno.EINVAL: EINVAL,
    errno.ENOSPC: ENOSPC,
    errno.EDQUOT: ENOSPC,
    errno.EFBIG: ENOSPC,
    errno.ESHUTDOWN: ESHUTDOWN,
}


def wire_error(number: int | None) -> int:
    """The error of a reply for an errno; EIO for all that the protocol has no number for."""
    return _ERRORS.get(number or 0, EIO)
