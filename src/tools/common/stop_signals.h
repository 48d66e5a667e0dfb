/* The signals that ask a program to end. */
#ifndef TOOLS_COMMON_STOP_SIGNALS_H
#define TOOLS_COMMON_STOP_SIGNALS_H

#include <signal.h>
#include <stdbool.h>

/* SIGTERM, SIGINT and SIGHUP, but for those that were ignored when the program was started: nohup, and shells without
 * job control. */
sigset_t tpv_stop_signals(void);
/* Has one of them come? They are blocked by the caller's thread. */
bool tpv_stop_signals_pending(void);

#endif
