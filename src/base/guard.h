/*
 * Guarded reads of mapped files. Reading a page beyond the end of a file that was truncated after it was mapped raises
 * SIGBUS (mmap(2)); within tpv_guard_run that ends the guarded function and is told to the caller, who knows which file
 * it is, instead of ending the process.
 *
 * One process-wide SIGBUS handler is installed at first use and put back if somebody replaced it since. A SIGBUS that
 * no guard of its own thread expects goes on to the handler that was there before, or to the default action.
 */
#ifndef BASE_GUARD_H
#define BASE_GUARD_H

#include "tpview/status.h"

typedef struct tpv_guard_fault {
    const void *address; /* that could not be accessed; NULL when no fault happened */
} tpv_guard_fault_t;

/*
 * Run body(user). TPV_OK when it returned; TPV_ERR_FORMAT, with *fault filled and no message set, when a SIGBUS cut it
 * short; TPV_ERR_SYSTEM when the handler could not be installed. `body` is left by a jump: it must hold no lock and
 * own nothing that it would have to give back. May be nested and run in any number of threads. Costs about one system
 * call, so it suits work of 100 KiB and more.
 */
tpv_status_t tpv_guard_run(void (*body)(void *user), void *user, tpv_guard_fault_t *fault);

#endif
