/* The control API's routes; docs/control-api.md. */
#ifndef SERVICE_API_H
#define SERVICE_API_H

#include "service/service.h"

tpv_http_handler_t tpv_api_handler(tpv_service_t *service);

#endif
