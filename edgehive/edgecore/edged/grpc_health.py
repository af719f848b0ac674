"""One gRPC health check of a container from outside, as gRPC probes ask for it.

For `probes.py`. A check either succeeds or comes back as a sentence saying why not; connections are not encrypted, as
Kubernetes documents for these probes.
Go: pkg/probe/grpc/grpc.go
"""

import asyncio

from edgehive.api.core import GRPCAction

_NAMES = {0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_SERVING = 1


async def check_health(ip: str, action: GRPCAction, timeout: float) -> str:
    """ "" when the service says SERVING."""
    # Few pods have such a probe: the stubs are loaded by those that do.
    from grpclib.client import Channel
    from grpclib.const import Status
    from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
    from grpclib.health.v1.health_grpc import HealthStub
    from grpclib.health.v1.health_pb2 import HealthCheckRequest

    where = f"{f'[{ip}]' if ':' in ip else ip}:{action.port}"
    channel = Channel(ip, action.port)
    try:
        async with asyncio.timeout(timeout):
            answer = await HealthStub(channel).Check(HealthCheckRequest(service=action.service or ""))
    except GRPCError as error:
        if error.status is Status.UNIMPLEMENTED:
            return f"error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {where}"
        return f"error: health rpc probe failed: {error.status.name}: {error.message}"
    except TimeoutError:
        return f"timeout: health rpc did not complete within {timeout:g}s"
    except (OSError, ProtocolError, StreamTerminatedError) as error:
        return f'error: failed to connect service at "{where}": {error}'
    finally:
        channel.close()
    if answer.status == _SERVING:
        return ""
    return f'service unhealthy (responded with "{_NAMES.get(answer.status, answer.status)}")'
