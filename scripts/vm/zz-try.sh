set -e
cat /sys/fs/cgroup/cgroup.controllers /sys/fs/cgroup/cgroup.subtree_control /proc/self/cgroup
mkdir -p /tmp/b/rootfs/bin; cd /tmp/b; cp /bin/busybox rootfs/bin/; ln -s busybox rootfs/bin/sh; ln -s busybox rootfs/bin/dd;
for rt in crun runc; do
rm -f config.json; $rt spec
node -e '
const c=JSON.parse(require("fs").readFileSync("config.json"));c.process.terminal=false;c.process.args=["sh","-c","busybox cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; dd if=/dev/zero of=/dev/null bs=200M count=1"];
c.root.readonly=false;c.linux.cgroupsPath="/warren-x/y";c.linux.resources={...c.linux.resources,memory:{limit:67108864,swap:67108864},pids:{limit:50}};
require("fs").writeFileSync("config.json",JSON.stringify(c))'
set +e; time $rt run hello; echo "$rt status $?"; set -e
done
ls -la /tmp; ls -la /dev /dev/fuse; free -m; df -h; id
ls /sys/fs/cgroup
su nobody -s /bin/sh -c 'unshare -Ur id'
