"""Numbers of the system calls that the filter names, for the two machines that it knows (Linux, 64 bits).

Rules
-----
1. Numbers are the kernel's ABI (``asm/unistd_64.h``, ``asm-generic/unistd.h``) and never change.
2. Calls that only one machine has (``fork``, ``chmod`` ...) are in its own table: the others spell them
   through the newer call beside them (``clone``, ``fchmodat`` ...), which is in both.
3. From 424 on both machines count alike.
"""

from __future__ import annotations

import platform

_X86_64 = {
    "mmap": 9,
    "socket": 41, "socketpair": 53, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311,
    "kcmp": 312, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308,
    "keyctl": 250, "add_key": 248, "request_key": 249, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
    "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246, "kexec_file_load": 320,
    "reboot": 169, "swapon": 167, "swapoff": 168, "acct": 163, "quotactl": 179, "syslog": 103,
    "sethostname": 170, "setdomainname": 171, "settimeofday": 164, "clock_settime": 227, "adjtimex": 159,
    "clock_adjtime": 305, "open_by_handle_at": 304, "name_to_handle_at": 303, "fanotify_init": 300,
    "iopl": 172, "ioperm": 173, "modify_ldt": 154, "personality": 135,
    "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "msgget": 68, "mq_open": 240, "memfd_create": 319,
    "fork": 57, "vfork": 58, "clone": 56, "kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129,
    "rt_tgsigqueueinfo": 297, "prlimit64": 302, "setpriority": 141, "ioprio_set": 251,
    "sched_setparam": 142, "sched_setscheduler": 144, "sched_setaffinity": 203, "sched_setattr": 314,
    "migrate_pages": 256, "move_pages": 279, "fcntl": 72, "ioctl": 16, "prctl": 157,
    "setsid": 112, "setpgid": 109,
    "chmod": 90, "fchmod": 91, "fchmodat": 268, "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260,
    "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198,
    "fremovexattr": 199, "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280,
}  # fmt: skip

_AARCH64 = {
    "mmap": 222,
    "socket": 198, "socketpair": 199, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271,
    "kcmp": 272, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268,
    "keyctl": 219, "add_key": 217, "request_key": 218, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282,
    "init_module": 105, "finit_module": 273, "delete_module": 106, "kexec_load": 104, "kexec_file_load": 294,
    "reboot": 142, "swapon": 224, "swapoff": 225, "acct": 89, "quotactl": 60, "syslog": 116,
    "sethostname": 161, "setdomainname": 162, "settimeofday": 170, "clock_settime": 112, "adjtimex": 171,
    "clock_adjtime": 266, "open_by_handle_at": 265, "name_to_handle_at": 264, "fanotify_init": 262,
    "personality": 92,
    "shmget": 194, "shmat": 196, "shmctl": 195, "semget": 190, "msgget": 186, "mq_open": 180,
    "memfd_create": 279,
    "clone": 220, "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138,
    "rt_tgsigqueueinfo": 240, "prlimit64": 261, "setpriority": 140, "ioprio_set": 30,
    "sched_setparam": 118, "sched_setscheduler": 119, "sched_setaffinity": 122, "sched_setattr": 274,
    "migrate_pages": 238, "move_pages": 239, "fcntl": 25, "ioctl": 29, "prctl": 167,
    "setsid": 157, "setpgid": 154,
    "fchmod": 52, "fchmodat": 53, "fchown": 55, "fchownat": 54,
    "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16,
    "utimensat": 88,
}  # fmt: skip

_BOTH = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442,
    "quotactl_fd": 443, "memfd_secret": 447, "process_mrelease": 448, "fchmodat2": 452, "setxattrat": 463,
    "removexattrat": 466, "open_tree_attr": 467, "file_setattr": 469,
}  # fmt: skip

NUMBERS: dict[str, dict[str, int]] = {"x86_64": _X86_64 | _BOTH, "aarch64": _AARCH64 | _BOTH}
"""Machine -> name -> number."""

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""What the kernel calls the machine in ``seccomp_data.arch``."""

SECCOMP = {"x86_64": 317, "aarch64": 277}
"""The number of ``seccomp`` itself."""


def machine() -> str:
    """Return this machine's name, whether it is known here or not."""
    return platform.machine()
