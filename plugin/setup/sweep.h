/* Have every transport look after what nobody else does. Under the setup lock (core/fork.h). */
#ifndef SETUP_SWEEP_H
#define SETUP_SWEEP_H

#include "core/transport.h"

static inline void tpv_setup_sweep(void) {
    for (int i = 0; tpv_transports[i]; i++)
        if (tpv_transports[i]->sweep) tpv_transports[i]->sweep();
}

#endif
