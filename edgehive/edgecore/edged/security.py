"""Security contexts of pods and containers -> CRI. Pure.

For `podspec.py`. Container settings win over the pod's; what neither sets is the runtime's or the image's.
Go: pkg/securitycontext, pkg/kubelet/kuberuntime/security_context.go
"""

from dataclasses import dataclass

from edgehive.api.core import AppArmorProfile, Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext
from edgehive.api.core import SELinuxOptions as SELinux
from edgehive.edgecore.edged.environment import ContainerConfigError
from edgehive.protos import cri_pb2 as cri

#: Kernel interfaces hidden from (or read-only in) containers, the list every runtime uses for procMount Default.
MASKED_PATHS = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class ImageUser:
    """Whom the image runs as when nobody says otherwise."""

    uid: int | None = None
    name: str = ""


def privileged(container: Container) -> bool:
    return bool((container.security_context or SecurityContext()).privileged)


def readonly_root(container: Container) -> bool:
    return bool((container.security_context or SecurityContext()).read_only_root_filesystem)


def sysctls(pod: Pod) -> dict[str, str]:
    """Names with dots, whichever separator the pod uses."""
    context = pod.spec.security_context or PodSecurityContext()
    return {item.name.replace("/", "."): item.value for item in context.sysctls or ()}


def sandbox_security(pod: Pod) -> cri.LinuxSandboxSecurityContext:
    """The pause process runs confined, as the pod's user, and privileged when any container is."""
    context = pod.spec.security_context or PodSecurityContext()
    made = cri.LinuxSandboxSecurityContext(
        namespace_options=_namespaces(pod),
        selinux_options=_selinux(context.se_linux_options),
        supplemental_groups=_groups(context),
        privileged=any(privileged(item) for item in (*pod.spec.containers, *(pod.spec.init_containers or ()))),
        seccomp=cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault),
    )
    if context.run_as_user is not None:
        made.run_as_user.value = context.run_as_user
        if context.run_as_group is not None:
            made.run_as_group.value = context.run_as_group
    return made


def container_security(
    pod: Pod, container: Container, *, image: ImageUser, default_seccomp: str, seccomp_root: str, pid_target: str = ""
) -> cri.LinuxContainerSecurityContext:
    """The container's confinement; raises ContainerConfigError when it would break runAsNonRoot.

    With `pid_target` it sees the processes of the container of that id.
    """
    own = container.security_context or SecurityContext()
    shared = pod.spec.security_context or PodSecurityContext()
    _verify_non_root(pod, container, image)
    confined = not own.privileged and own.proc_mount != "Unmasked"
    seccomp = own.seccomp_profile or shared.seccomp_profile or SeccompProfile(type=default_seccomp)
    made = cri.LinuxContainerSecurityContext(
        capabilities=_capabilities(own),
        privileged=bool(own.privileged),
        namespace_options=_namespaces(pod),
        selinux_options=_selinux(own.se_linux_options or shared.se_linux_options),
        readonly_rootfs=bool(own.read_only_root_filesystem),
        supplemental_groups=_groups(shared),
        no_new_privs=own.allow_privilege_escalation is False,
        masked_paths=MASKED_PATHS if confined else (),
        readonly_paths=READONLY_PATHS if confined else (),
        seccomp=_profile(seccomp, root=seccomp_root),
        apparmor=_profile(own.app_armor_profile or shared.app_armor_profile),
    )
    if pid_target:
        made.namespace_options.pid, made.namespace_options.target_id = cri.TARGET, pid_target
    _set_user(made, own, shared, image)
    return made


def _set_user(
    made: cri.LinuxContainerSecurityContext, own: SecurityContext, shared: PodSecurityContext, image: ImageUser
) -> None:
    user = shared.run_as_user if own.run_as_user is None else own.run_as_user
    group = shared.run_as_group if own.run_as_group is None else own.run_as_group
    if user is None and group is not None and not image.name:
        # The runtime takes a group only together with a user.
        user = image.uid or 0
    if user is not None:
        made.run_as_user.value = user
    elif group is not None:
        made.run_as_username = image.name
    if group is not None:
        made.run_as_group.value = group


def _verify_non_root(pod: Pod, container: Container, image: ImageUser) -> None:
    own = container.security_context or SecurityContext()
    shared = pod.spec.security_context or PodSecurityContext()
    if not (shared.run_as_non_root if own.run_as_non_root is None else own.run_as_non_root):
        return
    where = f'(pod: "{pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})", container: {container.name})'
    user = shared.run_as_user if own.run_as_user is None else own.run_as_user
    if user == 0:
        raise ContainerConfigError(f"container's runAsUser breaks non-root policy {where}")
    if user is not None:
        return
    if image.name:
        raise ContainerConfigError(
            f"container has runAsNonRoot and image has non-numeric user ({image.name}), "
            f"cannot verify user is non-root {where}"
        )
    if not image.uid:
        raise ContainerConfigError(f"container has runAsNonRoot and image will run as root {where}")


def _namespaces(pod: Pod) -> cri.NamespaceOption:
    spec = pod.spec
    pid = cri.POD if spec.share_process_namespace else cri.CONTAINER
    return cri.NamespaceOption(
        network=cri.NODE if spec.host_network else cri.POD,
        pid=cri.NODE if spec.host_pid else pid,
        ipc=cri.NODE if spec.host_ipc else cri.POD,
    )


def _groups(shared: PodSecurityContext) -> list[int]:
    return [*([] if shared.fs_group is None else [shared.fs_group]), *(shared.supplemental_groups or ())]


def _capabilities(own: SecurityContext) -> cri.Capability | None:
    if own.capabilities is None:
        return None
    return cri.Capability(add_capabilities=own.capabilities.add or (), drop_capabilities=own.capabilities.drop or ())


def _profile(profile: SeccompProfile | AppArmorProfile | None, *, root: str = "") -> cri.SecurityProfile | None:
    if profile is None:
        return None
    match profile.type:
        case "RuntimeDefault":
            return cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault)
        case "Localhost":
            if not profile.localhost_profile:
                raise ContainerConfigError("localhostProfile must be set if profile type is Localhost.")
            place = f"{root}/{profile.localhost_profile}" if root else profile.localhost_profile
            return cri.SecurityProfile(profile_type=cri.SecurityProfile.Localhost, localhost_ref=place)
    return cri.SecurityProfile(profile_type=cri.SecurityProfile.Unconfined)


def _selinux(options: SELinux | None) -> cri.SELinuxOption | None:
    if options is None:
        return None
    return cri.SELinuxOption(user=options.user, role=options.role, type=options.type, level=options.level)
