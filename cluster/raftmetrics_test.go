package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	gometrics "github.com/hashicorp/go-metrics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
)

func gatherRaft(t *testing.T, reg *prometheus.Registry, name string) []*dto.Metric {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "snipdb_cluster_raft_"+name {
			return f.GetMetric()
		}
	}
	return nil
}

func TestRaftMetricsReachEveryRegistry(t *testing.T) {
	a, b := prometheus.NewRegistry(), prometheus.NewRegistry()
	stopA, err := bridgeRaftMetrics(a)
	if err != nil {
		t.Fatal(err)
	}
	stopB, err := bridgeRaftMetrics(b)
	if err != nil {
		t.Fatal(err)
	}
	defer stopB()
	report := func() {
		gometrics.IncrCounter([]string{"raft", "state", "leader"}, 1)
		gometrics.SetGauge([]string{"raft", "peers"}, 3)
		gometrics.MeasureSince([]string{"raft", "commitTime"}, time.Now().Add(-2*time.Second))
		gometrics.AddSampleWithLabels([]string{"raft", "net", "rpcEnqueue"}, 1000, []gometrics.Label{{Name: "rpcType", Value: "Heartbeat"}})
		// What raft names after a peer, and what is in no table, stays out.
		gometrics.AddSampleWithLabels([]string{"raft", "net", "rpcEnqueue"}, 1000, []gometrics.Label{{Name: "rpcType", Value: "made up"}})
		gometrics.AddSample([]string{"raft", "replication", "heartbeat", "10.0.0.1:7001"}, 1)
		gometrics.IncrCounter([]string{"some", "other"}, 1)
	}
	report()
	for name, reg := range map[string]*prometheus.Registry{"a": a, "b": b} {
		if m := gatherRaft(t, reg, "became_leader_total"); len(m) != 1 || m[0].GetCounter().GetValue() != 1 {
			t.Errorf("registry %s: became_leader_total is %v", name, m)
		}
		if m := gatherRaft(t, reg, "servers"); len(m) != 1 || m[0].GetGauge().GetValue() != 3 {
			t.Errorf("registry %s: servers is %v", name, m)
		}
		if m := gatherRaft(t, reg, "commit_seconds"); len(m) != 1 || m[0].GetHistogram().GetSampleCount() != 1 || int(m[0].GetHistogram().GetSampleSum()) != 2 {
			t.Errorf("registry %s: commit_seconds is %v", name, m)
		}
		rpc := gatherRaft(t, reg, "rpc_wait_seconds")
		if len(rpc) != len(raftRPCTypes) {
			t.Errorf("registry %s: rpc_wait_seconds has %d label values; want %d", name, len(rpc), len(raftRPCTypes))
		}
		for _, m := range rpc {
			want := uint64(0)
			if m.GetLabel()[0].GetValue() == "Heartbeat" {
				want = 1
			}
			if m.GetHistogram().GetSampleCount() != want {
				t.Errorf("registry %s: rpc_wait_seconds is %v", name, m)
			}
		}
		if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
			t.Errorf("registry %s: lint: %v %v", name, problems, err)
		}
	}
	stopA()
	stopA()
	report()
	if n := testutil.CollectAndCount(a); n != 0 {
		t.Errorf("%d metrics are left in the registry after stop", n)
	}
	if m := gatherRaft(t, b, "became_leader_total"); m[0].GetCounter().GetValue() != 2 {
		t.Errorf("registry b: became_leader_total is %v after a stopped", m)
	}
}

func TestRaftMetricsInOneRegistryTwice(t *testing.T) {
	reg := prometheus.NewRegistry()
	stop, err := bridgeRaftMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bridgeRaftMetrics(reg); err == nil {
		t.Error("no error")
	}
	// The failed attempt must not have taken away what the first registered.
	if m := gatherRaft(t, reg, "servers"); len(m) != 1 {
		t.Error("the first bridge has lost its metrics")
	}
	stop()
	if stop, err := bridgeRaftMetrics(nil); err != nil {
		t.Error(err)
	} else {
		stop()
	}
}

// TestRaftStillReportsWhatTheTableNames looks into the library's source, so
// that an upgrade that renames a metric is noticed.
func TestRaftStillReportsWhatTheTableNames(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/hashicorp/raft").Output()
	if err != nil {
		t.Skipf("no go command: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no source: %v", err)
	}
	var source strings.Builder
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(raw)
	}
	for _, row := range raftMetrics {
		parts := strings.Split(row.key, ".")
		// Some are built from a prefix: the saturation of a thread, the age of the log.
		tail := regexp.QuoteMeta(`"` + strings.Join(parts[1:], `", "`) + `"`)
		built := regexp.QuoteMeta(`"` + strings.Join(parts[1:len(parts)-1], `", "`) + `"`)
		if !regexp.MustCompile(tail).MatchString(source.String()) &&
			!(regexp.MustCompile(built).MatchString(source.String()) && strings.Contains(source.String(), `"`+parts[len(parts)-1]+`"`)) {
			t.Errorf("raft's source does not name %s", row.key)
		}
	}
	for _, rpc := range raftRPCTypes {
		if !strings.Contains(source.String(), `Value: "`+rpc+`"`) {
			t.Errorf("raft's source does not name the RPC type %s", rpc)
		}
	}
}
