"""A private Kubernetes of one node: real daemons in namespaces of their own and in one temporary folder."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from services.daemons import Daemons
from services.kubernetes import cgroups, image
from services.packages import need_programs, output
from support import wait_until

_HERE = Path(__file__).parent
_NODE = "node-1"
_PODS = "10.244.0"
# Mounted, network, processes, host name and shared memory: what happens in there stays in there.
_NAMESPACES = ("--mount", "--net", "--pid", "--uts", "--ipc")

_CONTAINERD = """\
version = 2
root = "{folder}/containerd"
state = "/run/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
"""
_KUBELET = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
# Nobody but this machine and the cluster's own pods can reach it.
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
cgroupDriver: cgroupfs
cgroupRoot: /{name}
clusterDNS: [{pods}.1]
clusterDomain: cluster.local
resolvConf: /dev/null
failSwapOn: false
evictionHard: {{"memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi"}}
imageGCHighThresholdPercent: 100
nodeStatusUpdateFrequency: 5s
"""
# Masqueraded, for the sake of machines whose bridges do not call iptables: answers have to come by way of the node.
_PROXY = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: {pods}.0/24
hostnameOverride: {node}
clientConnection: {{kubeconfig: {kubeconfig}}}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
iptables: {{masqueradeAll: true, minSyncPeriod: 0s, syncPeriod: 10s}}
"""
# What the kubelet sets for the whole machine; it finds in these files that it need not.
_SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
# Run in the namespaces before any daemon. Some programs have their sockets and mount points in /run, come what may.
_PREPARATION = """\
hostname {node}
ip link set lo up
ip address add {address}/30 dev eth0
ip link set eth0 up
ip route add default via {outside}
echo 1 >/proc/sys/net/ipv4/ip_forward
ip link add cni0 type bridge
ip address add {pods}.1/24 dev cni0
ip link set cni0 up
mount -t tmpfs none /run
mount --bind {folder}/log /var/log
mkdir -p /var/lib/kubelet /var/lib/cni
mount --bind {folder}/kubelet /var/lib/kubelet
mount --bind {folder}/cni-results /var/lib/cni
mount --bind {folder}/hosts /etc/hosts
mount --bind {folder}/resolv.conf /etc/resolv.conf
"""


def need_what_it_takes() -> None:
    """Raise FetchFailed where a cluster cannot run, with the reason."""
    if os.geteuid() != 0:
        raise image.FetchFailed("only root may make its namespaces")
    programs = "etcd containerd ctr runc dnsmasq iptables ip unshare nsenter mount openssl"
    need_programs(*programs.split(), "/usr/lib/cni/bridge")
    output("unshare", *_NAMESPACES, "--fork", "true")
    name = f"surgeline-{secrets.token_hex(4)}"
    cgroups.make(name)
    cgroups.remove(name)


class Kubernetes(Daemons):
    """Real daemons: etcd, API server, controllers, scheduler, kubelet with containerd, services, DNS.

    All of it is in namespaces of its own, so that its ports, mounts and processes concern nobody else; when the
    first process there ends, as it does with the tests' own, all others do. From the outside, `kubectl` finds the
    API server (`environment`), but addresses of pods and services are there only for what `inside` runs. Pods reach
    this machine's servers at `outside_address`. Folders of this machine can be mounted as `hostPath` below the name
    that they have here. Images are `image.WORKER_IMAGE` and what `load_image` brings; none is ever fetched.
    """

    def __init__(self, programs: Path, layers: Sequence[Path], *, gpus: int = 2) -> None:
        """Make a cluster of the programs and the image's layers; its node has so many `nvidia.com/gpu`."""
        super().__init__("kubernetes")
        self._programs = programs
        self._layers = layers
        self._gpus = gpus
        self._name = self.folder.name
        self._init = 0
        self._has_operator = False
        self._link = ""
        self._number = 0
        # For which address the API server's certificate is.
        self._certified = ""
        for name in ("log", "kubelet", "cni", "cni-results", "names", "settings", "own-layer"):
            (self.folder / name).mkdir()
        self._token = secrets.token_hex(16)
        (self.folder / "tokens.csv").write_text(f'{self._token},admin,admin,"system:masters"\n')
        (self.folder / "containerd.toml").write_text(_CONTAINERD.format(folder=self.folder, pause=image.PAUSE_IMAGE))
        (self.folder / "kubelet.yaml").write_text(_KUBELET.format(name=self._name, pods=_PODS))
        kubeconfig = self.folder / "admin.kubeconfig"
        (self.folder / "proxy.yaml").write_text(_PROXY.format(pods=_PODS, node=_NODE, kubeconfig=kubeconfig))
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/addresses",
                "ranges": [[{"subnet": f"{_PODS}.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        network = {"cniVersion": "0.4.0", "name": "tests", "plugins": [bridge]}
        (self.folder / "cni" / "10-bridge.conflist").write_text(json.dumps(network))
        (self.folder / "resolv.conf").write_text(f"nameserver {_PODS}.1\n")
        image.make_own_layer(self.folder / "own-layer")

    @property
    def outside_address(self) -> str:
        """This machine's address, as pods see it."""
        return f"198.18.{self._number}.1"

    @property
    def address(self) -> str:
        """The node's address, as this machine and pods see it."""
        return f"198.18.{self._number}.2"

    def environment(self) -> dict[str, str]:
        """The environment variables by which kubectl and others find it."""
        return {
            "KUBECONFIG": str(self.folder / "kubeconfig"),
            "PATH": f"{self._programs}:{os.environ['PATH']}:/usr/sbin:/sbin",
        }

    def start(self) -> None:
        """Start what does not run, and wait until the node takes pods."""
        if not self._runs("namespaces"):
            self._make_namespaces()
        start = self._start_unless_running
        start(
            *("etcd", "etcd", "--data-dir", self.folder / "etcd"),
            *("--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379"),
        )
        self._start_api_server()
        if not self._runs("containerd"):
            self.start_process("containerd", "containerd", "--config", self.folder / "containerd.toml")
            self._lay_images()
        self._wait_for("kube-apiserver", self._is_ready, "the API server is ready")
        admin = f"--kubeconfig={self.folder / 'admin.kubeconfig'}"
        start(
            *("kube-controller-manager", "kube-controller-manager", admin, "--leader-elect=false"),
            f"--service-account-private-key-file={self.folder / 'accounts.key'}",
            *(f"--root-ca-file={self._authority}", "--use-service-account-credentials=true"),
            *("--allocate-node-cidrs=true", f"--cluster-cidr={_PODS}.0/24", "--node-cidr-mask-size=24"),
            "--feature-gates=TTLAfterFinished=true",
        )
        start("kube-scheduler", "kube-scheduler", admin, "--leader-elect=false")
        self.start_kubelet(wait=False)
        start("kube-proxy", "kube-proxy", f"--config={self.folder / 'proxy.yaml'}")
        start(
            *("dnsmasq", "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"),
            *(f"--hostsdir={self.folder / 'names'}", "--local=/cluster.local/", "--user=root", "--pid-file="),
            *(f"--listen-address={_PODS}.1", "--bind-interfaces"),
        )
        start("names", sys.executable, _HERE / "names.py", self.folder / "names")
        self._wait_for_node()
        self._wait_for("kube-controller-manager", lambda: self._is_usable("default"), "pods may be made")

    def stop(self) -> None:
        """End all of it at once, as a power cut does, and pods too."""
        # While it is surely ours: it goes with its namespace, at any time, and another cluster takes its name.
        if self._link and self._runs("namespaces"):
            self.run("ip", "link", "delete", self._link)
        self._link = ""
        super().stop()
        if self._init:
            # The kernel ends all others with the namespaces' first process.
            with suppress(psutil.NoSuchProcess):
                psutil.Process(self._init).wait(30)
            self._init = 0
            cgroups.remove(self._name)

    def inside(self, *command: str | Path, **options: Any) -> str:
        """Run a command that sees the cluster's network and names, and wait for it; what it printed."""
        return self.run(*self._inside(*command), **options)

    def start_process(self, name: str, *command: str | Path, **environment: str) -> None:
        """Start a process that sees the cluster's network and names; its output goes to `output_of(name)`."""
        self._start(name, *map(str, self._inside(*command)), **environment)

    def end_process(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End such a process."""
        self._end(name, how)

    def output_of(self, name: str) -> str:
        """All that a daemon or such a process has written."""
        return (self.folder / f"{name}.output").read_text()

    def start_kubelet(self, *, wait: bool = True) -> None:
        """Start the kubelet and its GPUs, and wait until the node takes pods."""
        if not self._runs("kubelet"):
            # Left by one that was killed.
            self._kubelet_socket.unlink(missing_ok=True)
            self.start_process(
                *("kubelet", "kubelet", f"--config={self.folder / 'kubelet.yaml'}"),
                *(f"--kubeconfig={self.folder / 'admin.kubeconfig'}", f"--hostname-override={_NODE}"),
                *(f"--node-ip={self.address}", "--container-runtime=remote"),
                "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
                # It looks for those of a machine in that cloud, for seconds.
                AWS_EC2_METADATA_DISABLED="true",
            )
            self._start_gpus()
        if wait:
            self._wait_for_node()

    def stop_kubelet(self) -> None:
        """Stop the kubelet, as a crash does; pods run on, and Kubernetes takes notice after 40 seconds."""
        self._end("kubelet", signal.SIGKILL)

    def stop_api_server(self) -> None:
        """Stop the API server, as a crash does; `start` starts it again, and pods run on meanwhile."""
        self._end("kube-apiserver", signal.SIGKILL)

    def start_operator(self) -> None:
        """Start dask-kubernetes' operator if it does not run, and wait until it looks after clusters."""
        if self._runs("operator"):
            return
        package = find_spec("dask_kubernetes")
        assert package is not None and package.origin is not None
        kinds = Path(package.origin).parent / "operator/deployment/helm/dask-kubernetes-operator/crds"
        self.run("kubectl", "apply", "--filename", kinds)
        self.run("kubectl", "wait", "--for=condition=Established", "--timeout=30s", "--filename", kinds)
        (self.folder / "operator.output").unlink(missing_ok=True)
        module = "dask_kubernetes.operator.controller"
        self.start_process("operator", sys.executable, "-m", "kopf", "run", "--module", module, "--all-namespaces")
        self._has_operator = True
        said = "Initial authentication has finished"
        self._wait_for("operator", lambda: said in self.output_of("operator"), "the operator looks after clusters")

    def stop_operator(self, *, crash: bool = False) -> None:
        """Stop the operator, as Kubernetes does or as a crash does."""
        self._end("operator", signal.SIGKILL if crash else signal.SIGTERM)

    def drain(self) -> None:
        """Have every pod leave the node, which then takes no others, and wait until they are gone."""
        options = ("--force", "--delete-emptydir-data", "--ignore-daemonsets", "--grace-period=5")
        self.run("kubectl", "drain", _NODE, *options)

    def uncordon(self) -> None:
        """Have the node take pods again."""
        self.run("kubectl", "uncordon", _NODE)

    def load_image(self, archive: Path) -> None:
        """Bring an image, as `docker save` writes it."""
        self.inside("ctr", "--namespace=k8s.io", "images", "import", archive)

    def kubeconfig_of(self, namespace: str, service_account: str) -> Path:
        """A kubeconfig file by which one is a service account, in its namespace."""

        def secret() -> str:
            found = ("kubectl", "get", "serviceaccount", service_account, "--namespace", namespace)
            return self.try_to_run(*found, "--output=jsonpath={.secrets[0].name}").stdout

        wait_until(lambda: secret() != "", 30, f"{service_account} has a token")
        found = ("kubectl", "get", "secret", secret(), "--namespace", namespace)
        token = self.run(*found, "--output=go-template={{.data.token | base64decode}}")
        path = self.folder / f"{namespace}-{service_account}.kubeconfig"
        self._write_kubeconfig(path, token, namespace)
        return path

    def use_namespace(self, name: str) -> None:
        """Make a namespace, and have kubectl and others go by it from now on when they are not told of another."""
        self.run("kubectl", "create", "namespace", name)
        wait_until(lambda: self._is_usable(name), 30, "pods may be made in the namespace")
        self._write_kubeconfig(self.folder / "kubeconfig", self._token, name)

    def pod_phase(self, pod: str) -> str:
        """A pod's phase in a word, such as Pending or Succeeded; empty of one that is not there."""
        return self.try_to_run("kubectl", "get", "pod", pod, "--output=jsonpath={.status.phase}").stdout

    def wait_for_pod(self, pod: str, *phases: str, seconds: float = 60) -> str:
        """Wait until a pod is in one of these phases; which."""
        wait_until(lambda: self.pod_phase(pod) in phases, seconds, f"pod {pod} is {' or '.join(phases)}")
        return self.pod_phase(pod)

    def logs(self, pod: str) -> str:
        """What a pod's container has written."""
        return self.run("kubectl", "logs", pod)

    def tidy(self, namespace: str) -> None:
        """Delete a namespace and its pods, and start what is down, as the next test expects it."""
        self.start()
        if self._has_operator and not self._runs("operator"):
            # What it looks after is only gone when it has said so.
            self.start_operator()
        self.uncordon()
        # First the namespace: nobody can make another pod there then.
        self.run("kubectl", "delete", "namespace", namespace, "--wait=false")
        self.run("kubectl", "delete", "pods", "--all", "--force", "--grace-period=0", "--namespace", namespace)
        self._write_kubeconfig(self.folder / "kubeconfig", self._token, "default")

    def _make_namespaces(self) -> None:
        """Start the namespaces' first process, join their network to this machine's, and mount what is private."""
        cgroups.make(self._name)
        # It ends with its input, that is, with the tests' own process. Nobody waits for orphans: they end without it.
        first = ("env", "--ignore-signal=CHLD", "cat")
        unshare = ("unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc", "--propagation=private")
        namespaces = subprocess.Popen(
            [*unshare, *first], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self._daemons["namespaces"] = namespaces

        def names() -> list[str]:
            return [child.name() for child in psutil.Process(namespaces.pid).children()]

        wait_until(lambda: names() == [first[-1]], 30, "the namespaces are there")
        (init,) = psutil.Process(namespaces.pid).children()
        self._init = init.pid
        self._join_networks()
        addresses = {"address": self.address, "outside": self.outside_address, "pods": _PODS}
        script = _PREPARATION.format(node=_NODE, folder=self.folder, **addresses)
        for setting, value in _SETTINGS.items():
            file = self.folder / "settings" / setting.replace("/", "-")
            file.write_text(f"{value}\n")
            script += f"mount --bind {file} /proc/sys/{setting}\n"
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {_NODE}\n")
        self.inside("sh", "-euc", script)
        if not (self.folder / "accounts.key").exists():
            self.run("openssl", "genrsa", "-out", self.folder / "accounts.key", "2048")

    def _join_networks(self) -> None:
        """Join by the first pair of addresses that no other cluster of tests has."""
        # 198.18.0.0/15 is for tests of networks, RFC 2544.
        for number in range(256):
            name = f"surgeline{number}"
            peer = ("peer", "name", "eth0", "netns", str(self._init))
            if self.try_to_run("ip", "link", "add", name, "type", "veth", *peer).returncode == 0:
                break
        else:
            self.run("ip", "link", "add", name, "type", "veth", *peer)
        self._link, self._number = name, number
        self.run("ip", "address", "add", f"{self.outside_address}/30", "dev", name)
        self.run("ip", "link", "set", name, "up")

    def _start_api_server(self) -> None:
        if self._runs("kube-apiserver"):
            return
        # Its certificate is for its address, which may be another now.
        elsewhere = self._certified != self.address
        if elsewhere and self._authority.parent.exists():
            shutil.rmtree(self._authority.parent)
        self.start_process(
            *("kube-apiserver", "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379"),
            *(f"--advertise-address={self.address}", f"--cert-dir={self._authority.parent}"),
            *(f"--token-auth-file={self.folder / 'tokens.csv'}", "--authorization-mode=RBAC"),
            *("--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged=true"),
            f"--service-account-key-file={self.folder / 'accounts.key'}",
            f"--service-account-signing-key-file={self.folder / 'accounts.key'}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--kubelet-preferred-address-types=InternalIP",
            "--feature-gates=TTLAfterFinished=true",
        )
        self._wait_for("kube-apiserver", self._authority.exists, "the API server has its certificate")
        if not elsewhere:
            return
        self._certified = self.address
        for name in ("kubeconfig", "admin.kubeconfig"):
            self._write_kubeconfig(self.folder / name, self._token, "default")

    @property
    def _authority(self) -> Path:
        """The certificate by which one knows the API server."""
        return self.folder / "certificates" / "apiserver.crt"

    def _write_kubeconfig(self, path: Path, token: str, namespace: str) -> None:
        server = f"https://{self.address}:6443"
        cluster = {"server": server, "certificate-authority": str(self._authority)}
        context = {"cluster": "tests", "user": "tests", "namespace": namespace}
        text = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "tests", "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": context}],
            "current-context": "tests",
        }
        path.write_text(json.dumps(text))
        path.chmod(0o600)

    def _lay_images(self) -> None:
        """Have containerd take the folders of the image's layers for layers that it has unpacked itself."""
        ctr = ("ctr", "--namespace=k8s.io")
        self._wait_for("containerd", lambda: self._succeeds(*ctr, "version"), "containerd answers")
        snapshots = self.folder / "containerd" / "io.containerd.snapshotter.v1.overlayfs" / "snapshots"
        digests: list[str] = []
        chain = ""
        folders = [*self._layers, self.folder / "own-layer"]
        laid = snapshots.exists() and any(snapshots.iterdir())
        for number, folder in enumerate(folders, start=1):
            digests.append(f"sha256:{hashlib.sha256(str(folder).encode()).hexdigest()}")
            parent, both = chain, f"{chain} {digests[-1]}"
            chain = f"sha256:{hashlib.sha256(both.encode()).hexdigest()}" if parent else digests[-1]
            if not laid:
                below = (parent,) if parent else ()
                self.inside(*ctr, "snapshots", "prepare", f"new-{number}", *below)
                self.inside(*ctr, "snapshots", "commit", chain, f"new-{number}")
                self.inside(*ctr, "snapshots", "label", chain, "containerd.io/gc.root=tests")
            # containerd numbers them as they come.
            self.inside("mount", "--bind", "-o", "ro", folder, snapshots / str(number) / "fs")
        if not laid:
            dockerfile = image.configuration_of_dockerfile()
            sleep: dict[str, object] = {"Entrypoint": ["/bin/sleep", "infinity"]}
            for name, layers, configuration in (
                (image.PAUSE_IMAGE, digests[:1], sleep),
                (image.WORKER_IMAGE, digests, dockerfile),
            ):
                archive = self.folder / "image.tar"
                image.write_archive(archive, name, layers, configuration)
                self.load_image(archive)

    def _start_gpus(self) -> None:
        if not self._gpus:
            return
        if self._runs("gpus"):
            self._end("gpus", signal.SIGKILL)
        self._wait_for("kubelet", self._kubelet_socket.exists, "the kubelet takes device plugins")
        (self.folder / "gpus.output").unlink(missing_ok=True)
        self.start_process("gpus", sys.executable, _HERE / "gpus.py", str(self._gpus), "nvidia.com/gpu")
        self._wait_for("gpus", lambda: "registered" in self.output_of("gpus"), "the kubelet knows of its GPUs")

    @property
    def _kubelet_socket(self) -> Path:
        return self.folder / "kubelet" / "device-plugins" / "kubelet.sock"

    def _wait_for_node(self) -> None:
        asked = r"{.status.conditions[?(@.type=='Ready')].status} {.status.allocatable.nvidia\.com/gpu}"

        def takes_pods() -> bool:
            found = self.try_to_run("kubectl", "get", "node", _NODE, f"--output=jsonpath={asked}").stdout
            ready, _, gpus = found.partition(" ")
            return ready == "True" and (not self._gpus or gpus == str(self._gpus))

        self._wait_for("kubelet", takes_pods, "the node takes pods")

    def _is_ready(self) -> bool:
        return self.try_to_run("kubectl", "get", "--raw", "/readyz").stdout.strip() == "ok"

    def _is_usable(self, namespace: str) -> bool:
        return self._succeeds_outside("kubectl", "get", "serviceaccount", "default", "--namespace", namespace)

    def _succeeds_outside(self, *command: str) -> bool:
        return self.try_to_run(*command).returncode == 0

    def _succeeds(self, *command: str) -> bool:
        return self._succeeds_outside(*map(str, self._inside(*command)))

    def _inside(self, *command: str | Path) -> list[str | Path]:
        # nsenter looks for the program, and would do so by its own idea of PATH.
        return ["nsenter", f"--target={self._init}", *_NAMESPACES, f"--wd={self.folder}", *command]

    def _start_unless_running(self, name: str, *command: str | Path) -> None:
        if not self._runs(name):
            self.start_process(name, *command)

    def _end(self, name: str, how: signal.Signals) -> None:
        """End what nsenter waits for; it ends by itself then."""
        daemon = self._daemons.get(name)
        if daemon is not None and name != "namespaces":
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(daemon.pid).children():
                    child.send_signal(how)
            daemon.wait(60)
        super()._end(name, how)
