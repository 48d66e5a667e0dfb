#include "tools/common/stop_signals.h"

#include <stddef.h>

sigset_t tpv_stop_signals(void) {
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
    sigset_t signals;
    sigemptyset(&signals);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction action;
        if (sigaction(numbers[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN) sigaddset(&signals, numbers[i]);
    }
    return signals;
}

bool tpv_stop_signals_pending(void) {
    sigset_t pending, stop = tpv_stop_signals();
    sigpending(&pending);
    sigandset(&pending, &pending, &stop);
    return !sigisemptyset(&pending);
}
