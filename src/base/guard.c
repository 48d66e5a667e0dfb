#include "base/guard.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <ucontext.h>

#include "base/error.h"

typedef struct frame {
    sigjmp_buf jump;
    void *address;
    struct frame *outer;
} frame_t;

/* Innermost guard of this thread. Initial-exec: the handler must not make glibc allocate thread-local storage. */
static _Thread_local frame_t *volatile innermost __attribute__((tls_model("initial-exec")));
/* True while this thread's SIGBUS is in the hands of an earlier handler. */
static _Thread_local volatile bool forwarding __attribute__((tls_model("initial-exec")));

/* A handler that was there before ours. Never freed: a handler may be reading it. */
typedef struct earlier {
    struct sigaction action;
    struct earlier *next;
} earlier_t;

static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER;
static earlier_t *all_earlier;               /* under install_lock */
static _Atomic(const earlier_t *) forwardee; /* stored (release) under install_lock, loaded (acquire) by the handler */

/* SIGBUS that an instruction of this thread caused, as opposed to one that was sent. */
static bool caused_here(const siginfo_t *info) {
    return info->si_code == BUS_ADRALN || info->si_code == BUS_ADRERR || info->si_code == BUS_OBJERR ||
           info->si_code == BUS_MCEERR_AR;
}

static void forward(int number, siginfo_t *info, void *context) {
    const earlier_t *earlier = atomic_load_explicit(&forwardee, memory_order_acquire);
    bool plain = earlier && !(earlier->action.sa_flags & SA_SIGINFO);
    if (plain && earlier->action.sa_handler == SIG_IGN && !caused_here(info)) return;
    /* The second entry for one signal means that the earlier handler forwards to us: break the circle. */
    if (!earlier || forwarding ||
        (plain && (earlier->action.sa_handler == SIG_DFL || earlier->action.sa_handler == SIG_IGN))) {
        signal(number, SIG_DFL); /* a faulting instruction runs again and ends the process */
        if (!caused_here(info)) raise(number);
        return;
    }
    forwarding = true;
    if (plain) {
        earlier->action.sa_handler(number);
    } else {
        earlier->action.sa_sigaction(number, info, context);
    }
    forwarding = false;
}

static void on_sigbus(int number, siginfo_t *info, void *context) {
    frame_t *frame = innermost;
    if (!frame || !caused_here(info)) {
        forward(number, info, context);
        return;
    }
    frame->address = info->si_addr;
    /* The jump skips what the return from a handler would do: unblock what was not blocked at the fault. */
    pthread_sigmask(SIG_SETMASK, &((const ucontext_t *)context)->uc_sigmask, NULL);
    siglongjmp(frame->jump, 1);
}

static tpv_status_t remember_locked(const struct sigaction *action) {
    earlier_t *earlier = all_earlier;
    while (earlier &&
           (earlier->action.sa_sigaction != action->sa_sigaction || earlier->action.sa_flags != action->sa_flags))
        earlier = earlier->next;
    if (!earlier) {
        earlier = malloc(sizeof *earlier);
        if (!earlier) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to install a SIGBUS handler");
        earlier->action = *action;
        earlier->next = all_earlier;
        all_earlier = earlier;
    }
    atomic_store_explicit(&forwardee, earlier, memory_order_release);
    return TPV_OK;
}

static tpv_status_t install(void) {
    struct sigaction present;
    if (sigaction(SIGBUS, NULL, &present) == 0 && (present.sa_flags & SA_SIGINFO) && present.sa_sigaction == on_sigbus)
        return TPV_OK;
    pthread_mutex_lock(&install_lock);
    tpv_status_t status = TPV_OK;
    if (sigaction(SIGBUS, NULL, &present) != 0)
        status = tpv_error_set(TPV_ERR_SYSTEM, "cannot read the SIGBUS handler");
    if (status == TPV_OK && (!(present.sa_flags & SA_SIGINFO) || present.sa_sigaction != on_sigbus)) {
        status = remember_locked(&present);
        struct sigaction ours = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
        sigemptyset(&ours.sa_mask);
        if (status == TPV_OK && sigaction(SIGBUS, &ours, NULL) != 0)
            status = tpv_error_set(TPV_ERR_SYSTEM, "cannot install a SIGBUS handler");
    }
    pthread_mutex_unlock(&install_lock);
    return status;
}

tpv_status_t tpv_guard_run(void (*body)(void *user), void *user, tpv_guard_fault_t *fault) {
    fault->address = NULL;
    TPV_TRY(install());
    frame_t frame;
    frame.address = NULL;
    frame.outer = innermost;
    if (sigsetjmp(frame.jump, 0) != 0) {
        innermost = frame.outer;
        fault->address = frame.address;
        return TPV_ERR_FORMAT;
    }
    innermost = &frame;
    body(user);
    innermost = frame.outer;
    return TPV_OK;
}
