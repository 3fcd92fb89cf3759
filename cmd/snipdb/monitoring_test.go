package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/snipdb/snipdb/cmd/proctest"
)

const deployDir = "../../deploy"

// scrapeLabels are given by Prometheus, to every series.
var scrapeLabels = []string{"job", "instance", "cluster"}

// notScraped are the selectors that one healthy node does not show, each with
// the reason why it exists all the same.
var notScraped = map[string]string{
	`up`: "Prometheus makes it for each target",
	`snipdb_httpapi_request_duration_seconds{status="5xx"}`: "durations are shown for what has happened, and a healthy node has no 5xx",
}

// series are the labels of a metric and the values that each has.
type series map[string]map[string]bool

// scrape starts a node in this process, uses it, and returns its metrics by
// the names that PromQL uses: a histogram x is x_bucket, x_sum and x_count.
func scrape(t *testing.T) map[string]series {
	t.Helper()
	text := metricsOfARealNode(t)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]series{}
	add := func(name, label, value string) {
		if all[name] == nil {
			all[name] = series{}
		}
		if all[name][label] == nil {
			all[name][label] = map[string]bool{}
		}
		all[name][label][value] = true
	}
	for name, family := range families {
		for _, metric := range family.GetMetric() {
			names := []string{name}
			switch {
			case metric.GetHistogram() != nil:
				names = []string{name + "_bucket", name + "_sum", name + "_count"}
				for _, b := range metric.GetHistogram().GetBucket() {
					add(name+"_bucket", "le", fmt.Sprint(b.GetUpperBound()))
				}
			case metric.GetSummary() != nil:
				for _, q := range metric.GetSummary().GetQuantile() {
					add(name, "quantile", fmt.Sprint(q.GetQuantile()))
				}
			}
			for _, n := range names {
				if all[n] == nil {
					all[n] = series{}
				}
				for _, label := range metric.GetLabel() {
					add(n, label.GetName(), label.GetValue())
				}
			}
		}
	}
	return all
}

func metricsOfARealNode(t *testing.T) []byte {
	t.Helper()
	config, _, err := loadConfig(t, "", nil, "--node-id", "n1", "--data-dir", t.TempDir(), "--profile", "small",
		"--http-addr", "127.0.0.1:0", "--raft-addr", "127.0.0.1:0", "--disk-low-bytes", "1MiB", "--log-level", "warn")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended, ready := make(chan error, 1), make(chan string, 1)
	go func() {
		ended <- run(ctx, config, io.Discard, func(s *server) { ready <- s.config.HTTPAdvertise })
	}()
	defer func() {
		stop()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the node did not stop cleanly: %v", err)
		}
	}()
	var url string
	select {
	case url = <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatalf("the node did not start: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the node is not ready")
	}
	proctest.Eventually(t, time.Minute, "the node is ready", func() error {
		if status, text := send(t, "GET", url+"/readyz", ""); status != http.StatusOK {
			return fmt.Errorf("status %d: %.300s", status, text)
		}
		return nil
	})
	const doc = "/v1/collections/c/docs/d"
	for _, r := range [][3]string{
		{"PUT", doc, `{"content":["a","b"]}`},
		{"GET", doc, ""}, {"GET", doc + "?consistency=linearizable", ""},
		{"GET", doc + "?consistency=bounded&max_staleness=5s", ""}, {"GET", doc + "?consistency=session&min_index=1", ""},
		{"POST", "/v1/cluster/snapshot", ""},
	} {
		request(t, r[0], url+r[1], r[2])
	}
	return request(t, "GET", url+"/metrics", "")
}

// request sends a request that must succeed, and returns the answer's body.
func request(t *testing.T, method, url, body string) []byte {
	t.Helper()
	status, text := send(t, method, url, body)
	if status/100 != 2 {
		t.Fatalf("%s %s: %d %.300s", method, url, status, text)
	}
	return text
}

func send(t *testing.T, method, url, body string) (status int, answer []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true // no idle connection outlives the test
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if answer, err = io.ReadAll(response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, answer
}

// alert is one rule of alerts.yml.
type alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// readYAML reads a file of deploy; a key that into has no place for is an error.
func readYAML(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(deployDir, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalWithOptions(text, into, yaml.Strict()); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func readAlerts(t *testing.T) []alert {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string  `yaml:"name"`
			Rules []alert `yaml:"rules"`
		} `yaml:"groups"`
	}
	readYAML(t, "prometheus/alerts.yml", &file)
	var all []alert
	for _, group := range file.Groups {
		all = append(all, group.Rules...)
	}
	if len(all) < 20 {
		t.Fatalf("%d alerts: this test looks in the wrong place", len(all))
	}
	return all
}

// dashboardExpressions returns what the dashboard asks, by the panel's title.
func dashboardExpressions(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(deployDir, "grafana/dashboards/snipdb.json"))
	if err != nil {
		t.Fatal(err)
	}
	type target struct {
		Expr       string
		Datasource struct{ UID string }
	}
	var board struct {
		Panels []struct {
			ID          int
			Type, Title string
			GridPos     struct{ X, Y, W, H int }
			Targets     []target
		}
		Annotations struct{ List []target }
		Templating  struct{ List []struct{ Name, Type string } }
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	if len(board.Templating.List) == 0 || board.Templating.List[0].Type != "datasource" {
		t.Error("the dashboard's first variable is not the data source")
	}
	all, ids, rows := map[string][]string{}, map[int]bool{}, 0
	take := func(title string, of target) {
		if of.Datasource.UID != "${datasource}" {
			t.Errorf("panel %q asks the data source %q and not the chosen one", title, of.Datasource.UID)
		}
		all[title] = append(all[title], of.Expr)
	}
	for _, panel := range board.Panels {
		if ids[panel.ID] || panel.GridPos.W == 0 || panel.GridPos.X+panel.GridPos.W > 24 {
			t.Errorf("panel %q has the id %d twice, or no place in 24 columns: %+v", panel.Title, panel.ID, panel.GridPos)
		}
		ids[panel.ID] = true
		if panel.Type == "row" {
			rows++
			continue
		}
		if len(panel.Targets) == 0 || all[panel.Title] != nil {
			t.Errorf("panel %q asks nothing, or is there twice", panel.Title)
		}
		for _, of := range panel.Targets {
			take(panel.Title, of)
		}
	}
	for _, of := range board.Annotations.List {
		if of.Expr != "" {
			take("annotations", of)
		}
	}
	if rows != 7 {
		t.Errorf("the dashboard has %d rows", rows)
	}
	return all
}

// TestMonitoringUsesMetricsThatExist holds alerts and dashboard against the
// metrics of a real node: every name, every label, and every value of a label.
func TestMonitoringUsesMetricsThatExist(t *testing.T) {
	shown := scrape(t)
	used := map[string]bool{}
	for _, a := range readAlerts(t) {
		for _, problem := range checkExpression(shown, a.Expr, used) {
			t.Errorf("alert %s: %s", a.Alert, problem)
		}
	}
	for title, expressions := range dashboardExpressions(t) {
		for _, text := range expressions {
			for _, problem := range checkExpression(shown, text, used) {
				t.Errorf("panel %q: %s", title, problem)
			}
		}
	}
	// The pages name metrics as people read them: a histogram without _bucket.
	for _, page := range []string{"../../README.md", deployDir + "/README.md"} {
		for _, problem := range checkPage(t, page, shown) {
			t.Error(problem)
		}
	}
	for name := range notScraped {
		if !used[name] {
			t.Errorf("%s is on the list of exceptions, and nothing needs it", name)
		}
	}
	// The other way round: what no panel and no alert shows needs a reason.
	for name := range shown {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if strings.HasPrefix(name, "snipdb_") && !used[name] && !used[base+"_bucket"] && !used[base+"_count"] && notOnTheBoard[base] == "" {
			t.Errorf("no panel and no alert uses %s", name)
		}
	}
	// And the check itself must be able to fail.
	for _, wrong := range []string{
		`snipdb_no_such_metric`, `snipdb_cluster_refusals_total{cause="x"}`, `snipdb_cluster_refusals_total{reason="no_such"}`,
		`snipdb_cluster_refusals_total{reason=~"disk_low|no_such"}`, `sum by (colour) (snipdb_cluster_refusals_total)`,
		`snipdb_cluster_commit_seconds`, `rate(snipdb_cluster_term`,
	} {
		if len(checkExpression(shown, wrong, map[string]bool{})) == 0 {
			t.Errorf("%s was accepted", wrong)
		}
	}
}

// inBackticks is a metric with its labels, if any, as a page names it. A prefix
// ends in an underscore.
var inBackticks = regexp.MustCompile("`((?:snipdb|process|go)_[a-z0-9_]*[a-z0-9])({[^}]*})?`")

// checkPage looks for every metric that a page names, and for its labels.
func checkPage(t *testing.T, path string, shown map[string]series) (problems []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	names := inBackticks.FindAllStringSubmatch(string(text), -1)
	if len(names) == 0 {
		t.Errorf("%s names no metric: this test looks for the wrong thing", path)
	}
	for _, m := range names {
		name := m[1]
		if shown[name] == nil && shown[name+"_bucket"] != nil {
			name += "_bucket"
		}
		for _, problem := range checkExpression(shown, name+m[2], map[string]bool{}) {
			problems = append(problems, fmt.Sprintf("%s: %s", filepath.Base(path), problem))
		}
	}
	return problems
}

// TestPageNamesAreChecked sees that the check of pages can fail.
func TestPageNamesAreChecked(t *testing.T) {
	shown := map[string]series{"snipdb_a_total": {"kind": {"data": true}}, "snipdb_b_seconds_bucket": {}}
	for text, want := range map[string]int{
		"`snipdb_a_total` and `snipdb_b_seconds`": 0, "`snipdb_a_total{kind=\"data\"}`, all of `snipdb_a_`": 0,
		"`snipdb_c`": 1, "`snipdb_a_total{kind=\"blob\"}` and `process_c`": 2, "`snipdb_a_total{colour=\"red\"}`": 1,
	} {
		path := filepath.Join(t.TempDir(), "README.md")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if problems := checkPage(t, path, shown); len(problems) != want {
			t.Errorf("%s: %q, want %d problems", text, problems, want)
		}
	}
}

// notOnTheBoard are metrics that are for looking closer, with the reason why
// nobody should look at them every day.
var notOnTheBoard = map[string]string{
	"snipdb_cluster_log_written_entries_total":       "the bytes are shown",
	"snipdb_cluster_raft_append_entries_seconds":     "a follower's side of replicate_seconds",
	"snipdb_cluster_raft_became_follower_total":      "follows from the other transitions",
	"snipdb_cluster_raft_became_leader_total":        "leaderships_total says the same",
	"snipdb_cluster_raft_commit_seconds":             "a part of commit_seconds",
	"snipdb_cluster_raft_compact_log_seconds":        "log_truncate_seconds is shown",
	"snipdb_cluster_raft_dispatch_seconds":           "log_write_seconds is shown",
	"snipdb_cluster_raft_follower_store_seconds":     "log_write_seconds is shown",
	"snipdb_cluster_raft_fsm_batch_entries":          "apply_batch_entries is shown",
	"snipdb_cluster_raft_fsm_enqueue_seconds":        "the saturation of the loop is shown",
	"snipdb_cluster_raft_last_restore_seconds":       "restore_seconds is shown",
	"snipdb_cluster_raft_oldest_log_age_seconds":     "the log is bounded by bytes, not by age",
	"snipdb_cluster_raft_proposed_entries_total":     "the count of entry_commands is the same",
	"snipdb_cluster_raft_restore_seconds":            "fsm_restore_seconds is shown",
	"snipdb_cluster_raft_rpc_wait_seconds":           "the saturation of the loop is shown",
	"snipdb_cluster_raft_servers":                    "members and voters are shown",
	"snipdb_cluster_raft_snapshot_capture_seconds":   "fsm_snapshot_seconds is shown by step",
	"snipdb_cluster_raft_snapshot_persist_seconds":   "fsm_snapshot_seconds is shown by step",
	"snipdb_fsm_applied_index":                       "cluster_applied_index is shown",
	"snipdb_fsm_apply_batch_bytes":                   "follows from the entries",
	"snipdb_fsm_apply_entry_commands":                "the leader's entry_commands is shown",
	"snipdb_fsm_skipped_entries_total":               "of interest after a restart only",
	"snipdb_httpapi_metric_retries_total":            "a rare race, of no harm",
	"snipdb_httpapi_replayed_total":                  "fsm_idempotency_replays_total is shown",
	"snipdb_storage_family_immutable_memtables":      "the largest is shown",
	"snipdb_storage_family_memtable_bytes":           "the sum is shown",
	"snipdb_storage_family_pending_compaction_bytes": "the sum is shown",
	"snipdb_storage_idempotency_keys":                "family_keys shows the family",
	"snipdb_storage_blob_files":                      "the bytes are shown",
	"snipdb_storage_blocks_compressed_total":         "for the choice of a compression",
	"snipdb_storage_blocks_not_compressed_total":     "for the choice of a compression",
	"snipdb_storage_info_log_bytes":                  "bounded by two options",
	"snipdb_storage_snapshot_index":                  "the log that it does not cover is shown",
}

// checkExpression says what is wrong with an expression, and notes what it uses.
func checkExpression(shown map[string]series, text string, used map[string]bool) (problems []string) {
	e, err := parseExpression(text)
	if err != nil {
		return []string{fmt.Sprintf("%v in %s", err, text)}
	}
	known := slices.Clone(scrapeLabels)
	for _, s := range e.selectors {
		used[s.metric] = true
		if notScraped[s.metric] != "" {
			continue
		}
		labels, ok := shown[s.metric]
		if !ok {
			problems = append(problems, "no metric is called "+s.metric)
			continue
		}
		for label := range labels {
			known = append(known, label)
		}
		for _, m := range s.matchers {
			problems = append(problems, checkMatcher(s.metric, labels, m, used)...)
		}
	}
	for _, label := range e.labels {
		if !slices.Contains(known, label) {
			problems = append(problems, fmt.Sprintf("none of its metrics has the label %s: %s", label, text))
		}
	}
	return problems
}

// checkMatcher looks for the label and its values; a pattern must be a list of
// plain alternatives. A value that the dashboard's user chooses is not looked for.
func checkMatcher(metric string, labels series, matcher [3]string, used map[string]bool) (problems []string) {
	label, operator, value := matcher[0], matcher[1], matcher[2]
	if slices.Contains(scrapeLabels, label) {
		return nil
	}
	values := []string{value}
	if strings.Contains(operator, "~") {
		values = strings.Split(value, "|")
	}
	for _, v := range values {
		base := strings.TrimSuffix(strings.TrimSuffix(metric, "_bucket"), "_count")
		exception := fmt.Sprintf("%s{%s=%q}", base, label, v)
		if notScraped[exception] != "" && labels[label] != nil {
			used[exception] = true
			continue
		}
		if !labels[label][v] {
			problems = append(problems, fmt.Sprintf("%s has no series with %s=%q", metric, label, v))
		}
	}
	return problems
}

// TestEveryAlertIsExplained: each alert has what a person needs who is woken
// by it, the page has a section for each, and no section for others.
func TestEveryAlertIsExplained(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(deployDir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	parts := regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatchIndex(string(page), -1)
	for i, at := range parts {
		end := len(page)
		if i+1 < len(parts) {
			end = parts[i+1][0]
		}
		sections[string(page[at[2]:at[3]])] = string(page[at[1]:end])
	}
	alerts := map[string]bool{}
	for _, a := range readAlerts(t) {
		if alerts[a.Alert] {
			t.Errorf("%s is there twice", a.Alert)
		}
		alerts[a.Alert] = true
		for _, key := range []string{"summary", "description"} {
			if a.Annotations[key] == "" {
				t.Errorf("%s has no %s", a.Alert, key)
			}
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, a.Labels["severity"]) {
			t.Errorf("%s has the severity %q", a.Alert, a.Labels["severity"])
		}
		if want := "/deploy/README.md#" + strings.ToLower(a.Alert); !strings.HasSuffix(a.Annotations["runbook_url"], want) {
			t.Errorf("the runbook of %s is %q; want …%s", a.Alert, a.Annotations["runbook_url"], want)
		}
		section, ok := sections[a.Alert]
		if !ok {
			t.Errorf("deploy/README.md has no section %q", a.Alert)
			continue
		}
		for _, word := range []string{"Means:", "Do:"} {
			if !strings.Contains(section, word) {
				t.Errorf("the section of %s says nothing after %q", a.Alert, word)
			}
		}
	}
	for name := range sections {
		if strings.HasPrefix(name, "Snipdb") && !alerts[name] {
			t.Errorf("deploy/README.md explains %s, and there is no such alert", name)
		}
	}
	// The rules' own tests name each alert as well.
	rules, err := os.ReadFile(filepath.Join(deployDir, "prometheus/alerts_test.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for name := range alerts {
		if !bytes.Contains(rules, []byte(`alertname="`+name+`"`)) {
			t.Errorf("no test of alerts_test.yml lets %s fire", name)
		}
	}
}

// TestMonitoringFilesParse reads the files that nothing else here reads.
func TestMonitoringFilesParse(t *testing.T) {
	var config struct {
		RuleFiles []string `yaml:"rule_files"`
		Scrapes   []struct {
			Job     string `yaml:"job_name"`
			Path    string `yaml:"metrics_path"`
			Statics []struct {
				Targets []string          `yaml:"targets"`
				Labels  map[string]string `yaml:"labels"`
			} `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
		Global map[string]string `yaml:"global"`
	}
	readYAML(t, "prometheus/prometheus.yml", &config)
	if len(config.Scrapes) != 1 || config.Scrapes[0].Job != "snipdb" || len(config.Scrapes[0].Statics[0].Targets) != 3 {
		t.Errorf("the alerts need a job snipdb with three nodes: %+v", config.Scrapes)
	}
	if !slices.Equal(config.RuleFiles, []string{"alerts.yml"}) {
		t.Errorf("rule files %v", config.RuleFiles)
	}
	for _, name := range []string{"datasources/prometheus.yml", "dashboards/snipdb.yml"} {
		var provisioning map[string]any
		readYAML(t, "grafana/provisioning/"+name, &provisioning)
		if fmt.Sprint(provisioning["apiVersion"]) != "1" {
			t.Errorf("%s: apiVersion is %v", name, provisioning["apiVersion"])
		}
	}
}

// TestAlertsWithPromtool runs Prometheus's own check and the rules' tests,
// where promtool is installed.
func TestAlertsWithPromtool(t *testing.T) {
	skipIfShort(t)
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian: prometheus)")
	}
	for _, args := range [][]string{{"check", "config", "prometheus.yml"}, {"test", "rules", "alerts_test.yml"}} {
		command := exec.Command(promtool, args...)
		command.Dir = filepath.Join(deployDir, "prometheus")
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}
