/* Processes that are not the step's: the builder, its monitor, whatever else runs in the pod. */
#include "escape.h"
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>

static char path[256];

static const char *of(pid_t pid, const char *file) {
    snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
    return path;
}

static pid_t only_one;
static void visit_count(pid_t pid) { only_one = pid; }

/* Whether it is process 1 of the step's own PID namespace: what is done to that one ends this step only, and it takes no
 * signal that it does not handle. Without such a namespace there are the builder and its monitor at least. */
static bool is_own_init(pid_t pid) { return pid == 1 && each_foreign(visit_count) == 1 && only_one == 1; }

static void visit_root(pid_t pid) {
    const char *const links[] = {"root", "cwd"};
    for (size_t i = 0; i < 2; i++) must_not_open(of(pid, links[i]), O_RDONLY | O_DIRECTORY);
}
static void proc_root(void) { each_foreign(visit_root); }

static void visit_environ(pid_t pid) {
    char byte;
    int fd = open(of(pid, "environ"), O_RDONLY);
    if (fd < 0) held("%s: %s", path, strerror(errno));
    else if (read(fd, &byte, 1) > 0) out("read %s", path);
    close(fd);
}
static void proc_environ(void) { each_foreign(visit_environ); }

static void visit_mem(pid_t pid) {
    must_not_open(of(pid, "mem"), O_RDONLY);
    must_not_open(of(pid, "mem"), O_RDWR);
}
static void proc_mem(void) { each_foreign(visit_mem); }

static void visit_maps(pid_t pid) {
    const char *const files[] = {"maps", "auxv", "stack", "syscall"};
    char bytes[256];
    for (size_t i = 0; i < 4; i++) {
        int fd = open(of(pid, files[i]), O_RDONLY);
        if (fd < 0) held("%s: %s", path, strerror(errno));
        else if (read(fd, bytes, sizeof bytes) > 0) out("read %s", path);
        close(fd);
    }
}
static void proc_maps(void) { each_foreign(visit_maps); }

/* The numbers of descriptors may be listed by whoever shares the user id; what they are may not be seen. */
static void visit_fd(pid_t pid) {
    char name[32], target[256];
    for (int fd = 0; fd < 64; fd++) {
        snprintf(name, sizeof name, "fd/%d", fd);
        must_not_open(of(pid, name), O_PATH);
        if (readlink(path, target, sizeof target) >= 0) out("read the link %s", path);
        snprintf(name, sizeof name, "fdinfo/%d", fd);
        int info = must_not_open(of(pid, name), O_RDONLY);
        if (info >= 0) close(info);
    }
}
static void proc_fd(void) { each_foreign(visit_fd); }

static void visit_exe(pid_t pid) {
    must_not_open(of(pid, "exe"), O_RDONLY);
    must_not_open(of(pid, "exe"), O_WRONLY);
    char file[4096];
    if (readlink(of(pid, "exe"), file, sizeof file) > 0) out("read the link %s", path);
}
static void proc_exe(void) { each_foreign(visit_exe); }

/* Files of a process that need no right to trace it: whoever shares its user id may write them. */
static void visit_writable(pid_t pid) {
    if (is_own_init(pid)) return held("only the own process 1");
    const char *const files[] = {"oom_score_adj", "oom_adj", "coredump_filter", "clear_refs", "autogroup", "sched", "timerslack_ns",
                                 "uid_map", "gid_map", "setgroups", "loginuid", "attr/current", "comm"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) must_not_open(of(pid, files[i]), O_WRONLY);
}
static void proc_writable(void) { each_foreign(visit_writable); }

static void visit_ptrace(pid_t pid) {
    /* SEIZE neither stops nor signals; the end of this process lets go. */
    must_fail("PTRACE_SEIZE", ptrace(PTRACE_SEIZE, pid, 0, 0));
}
static void trace(void) { each_foreign(visit_ptrace); }

static void vm(pid_t pid, long call, const char *name) {
    char byte = 0;
    struct iovec local = {&byte, 1}, remote = {(void *)8, 1};
    long done = syscall(call, pid, &local, 1UL, &remote, 1UL, 0UL);
    /* An address nobody maps: EFAULT comes after the check. */
    if (done >= 0 || errno == EFAULT) out("%s of %d was allowed", name, pid);
    else held("%s of %d: %s", name, pid, strerror(errno));
}
static void visit_vm_read(pid_t pid) { vm(pid, SYS_process_vm_readv, "process_vm_readv"); }
static void vm_read(void) { each_foreign(visit_vm_read); }
static void visit_vm_write(pid_t pid) { vm(pid, SYS_process_vm_writev, "process_vm_writev"); }
static void vm_write(void) { each_foreign(visit_vm_write); }

static void visit_signal(pid_t pid) {
    if (is_own_init(pid)) {
        if (kill(1, SIGKILL) == 0) held("the own process 1 ignores signals");
        return;
    }
    if (kill(pid, SIGCONT) == 0) out("signalled %d", pid);
    else held("%d: %s", pid, strerror(errno));
    siginfo_t info = {.si_signo = SIGCONT, .si_code = SI_QUEUE};
    must_fail("rt_sigqueueinfo", syscall(SYS_rt_sigqueueinfo, pid, SIGCONT, &info));
    must_fail("tkill", syscall(SYS_tkill, pid, SIGCONT));
    must_fail("tgkill", syscall(SYS_tgkill, pid, pid, SIGCONT));
}
static void signals(void) { each_foreign(visit_signal); }

static void visit_pidfd(pid_t pid) {
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0) {
        held("pidfd_open: %s", strerror(errno));
        return;
    }
    for (int theirs = 0; theirs < 16; theirs++) {
        if (syscall(SYS_pidfd_getfd, fd, theirs, 0) >= 0) out("pidfd_getfd took descriptor %d of %d", theirs, pid);
        else if (errno == EBADF) out("pidfd_getfd may look into %d", pid);
        else held("pidfd_getfd: %s", strerror(errno));
    }
    if (!is_own_init(pid)) must_fail("pidfd_send_signal", syscall(SYS_pidfd_send_signal, fd, SIGCONT, NULL, 0));
    char bytes[1];
    struct iovec range = {bytes, 1};
    must_fail("process_madvise", syscall(SYS_process_madvise, fd, &range, 1, 20 /* MADV_COLD */, 0));
    must_fail("setns", setns(fd, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET));
    close(fd);
}
static void pidfd(void) { each_foreign(visit_pidfd); }

static void visit_setns(pid_t pid) {
    const char *const names[] = {"mnt", "pid", "net", "ipc", "uts", "user", "cgroup", "time"};
    char name[32];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(name, sizeof name, "ns/%s", names[i]);
        int fd = must_not_open(of(pid, name), O_RDONLY);
        if (fd >= 0) must_fail("setns", setns(fd, 0)), close(fd);
    }
}
static void namespaces_of_others(void) {
    each_foreign(visit_setns);
    int own = open("/proc/self/ns/mnt", O_RDONLY);
    if (own >= 0) must_fail("setns to the own mount namespace", setns(own, 0));
}

/* A limit of CPU time of 0 seconds kills as surely as a signal. The limit is set to what it is. */
static void visit_limits(pid_t pid) {
    struct rlimit limit;
    if (is_own_init(pid)) return held("only the own process 1");
    if (syscall(SYS_prlimit64, pid, RLIMIT_NOFILE, NULL, &limit) < 0) limit.rlim_cur = limit.rlim_max = 1024;
    long done = syscall(SYS_prlimit64, pid, RLIMIT_NOFILE, &limit, NULL);
    if (done == 0) out("prlimit set a limit of %d", pid);
    else held("prlimit of %d: %s", pid, strerror(errno));
}
static void limits(void) { each_foreign(visit_limits); }

/* To the value it has. */
static void visit_priority(pid_t pid) {
    if (is_own_init(pid)) return held("only the own process 1");
    errno = 0;
    int nice = getpriority(PRIO_PROCESS, (id_t)pid);
    if (errno == 0 && setpriority(PRIO_PROCESS, (id_t)pid, nice) == 0) out("setpriority of %d", pid);
    else held("setpriority of %d: %s", pid, strerror(errno));
    cpu_set_t cpus;
    if (sched_getaffinity(pid, sizeof cpus, &cpus) == 0 && sched_setaffinity(pid, sizeof cpus, &cpus) == 0) out("sched_setaffinity of %d", pid);
}
static void priorities(void) { each_foreign(visit_priority); }

const struct attempt PROCESSES[] = {
    {"proc-root", proc_root},
    {"proc-environ", proc_environ},
    {"proc-mem", proc_mem},
    {"proc-maps", proc_maps},
    {"proc-fd", proc_fd},
    {"proc-exe", proc_exe},
    {"proc-writable", proc_writable},
    {"ptrace", trace},
    {"process-vm-readv", vm_read},
    {"process-vm-writev", vm_write},
    {"signals", signals},
    {"pidfd", pidfd},
    {"setns", namespaces_of_others},
    {"limits", limits},
    {"priorities", priorities},
    {0},
};
