"""The system calls that honest work makes; every other one is not there.

Rules
-----
1. Measured: what runs of every kind of recipe call on a processor (``tests/training/test_isolation_kinds.py``
   runs them all under the list), and what older and newer C libraries call in the place of those.
2. A call that names another process, a socket with an address, or memory and queues that processes share, is
   on no list of workers.
3. A GPU's driver calls a few more. That list was read together from what the driver documents and is known to
   call, and was never run: no machine of ours had a GPU.
4. A call that one machine lacks is left out there.
"""

from __future__ import annotations

_FILES = """
open openat creat close close_range read write readv writev pread64 pwrite64 preadv pwritev preadv2
pwritev2 lseek stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2 readlink
readlinkat getdents getdents64 getcwd chdir fchdir umask dup dup2 dup3 pipe pipe2 rename renameat
renameat2 mkdir mkdirat rmdir unlink unlinkat link linkat symlink symlinkat truncate ftruncate fallocate
fsync fdatasync sync_file_range fadvise64 readahead flock copy_file_range sendfile getxattr lgetxattr
fgetxattr listxattr llistxattr flistxattr
"""
_MEMORY = """
mmap munmap mremap mprotect brk madvise msync mincore membarrier get_mempolicy set_mempolicy mbind
"""
_TIME_AND_WAITING = """
clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage alarm getitimer
setitimer poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait
epoll_pwait2 eventfd eventfd2 timerfd_create timerfd_settime timerfd_gettime futex futex_waitv futex_wait
futex_wake futex_requeue pause restart_syscall
"""
_ITSELF = """
exit exit_group getpid gettid getppid getpgrp getuid geteuid getgid getegid getgroups getresuid getresgid
set_tid_address set_robust_list get_robust_list rseq arch_prctl uname sysinfo getcpu getrandom getrlimit
setrlimit sched_yield sched_getaffinity sched_getparam sched_getscheduler sched_get_priority_max
sched_get_priority_min sched_rr_get_interval getpriority capget rt_sigaction rt_sigprocmask rt_sigreturn
rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack
"""
_OPEN_SOCKETS = "sendto recvfrom sendmsg recvmsg shutdown getsockname getpeername getsockopt setsockopt"
"""Of the channel, and of pairs of its own: none with an address can be made."""

_PROGRAMS = "execve wait4 waitid"

WORKER = frozenset(" ".join((_FILES, _MEMORY, _TIME_AND_WAITING, _ITSELF, _OPEN_SOCKETS, _PROGRAMS)).split())

OF_A_DRIVER = frozenset(("memfd_create", "mlock", "mlock2", "munlock", "mlockall", "munlockall"))
"""Beside those, where a GPU is lent: pinned memory, and memory that is handed on as a file."""

READER = WORKER - frozenset(_PROGRAMS.split())
OF_A_NETWORK = frozenset(("connect", "sendmmsg", "recvmmsg"))
"""Beside those, for a reader whose source is a server. ``sendmmsg`` is how the C library asks for names."""
