{{/* The Ray cluster's name, and the prefix of all others: short, since KubeRay appends to it. */}}
{{- define "stageflow.name" -}}
{{- .Release.Name | trunc 30 | trimSuffix "-" -}}
{{- end -}}

{{- define "stageflow.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "stageflow.image" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{/* The user of the image; nothing here needs more rights. */}}
{{- define "stageflow.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "stageflow.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* One variable from a Secret: dict "name" "secret" "key". */}}
{{- define "stageflow.fromSecret" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end -}}

{{/* The workers that there may be, as stageflow.machines_ray reads them: "4:cpus=8,gpus=1 4:cpus=4". */}}
{{- define "stageflow.machines" -}}
{{- $groups := list -}}
{{- range .Values.workers -}}
{{- if . -}}
{{- $cpus := .resources.cpu | toString -}}
{{- if hasSuffix "m" $cpus -}}{{- $cpus = divf (trimSuffix "m" $cpus) 1000 | toString -}}{{- end -}}
{{- $group := printf "%v:cpus=%s" .maxReplicas $cpus -}}
{{- if .gpus -}}{{- $group = printf "%s,gpus=%v" $group .gpus -}}{{- end -}}
{{- $groups = append $groups $group -}}
{{- end -}}
{{- end -}}
{{- join " " $groups -}}
{{- end -}}

{{/* The source of each node's volume for data sets and artifacts. */}}
{{- define "stageflow.cache" -}}
{{- .Values.cache | default (dict "emptyDir" (dict "sizeLimit" "100Gi")) | toYaml -}}
{{- end -}}

{{/* Access to the bucket; without a Secret it is the ServiceAccount's. */}}
{{- define "stageflow.bucketEnvironment" -}}
{{- with .Values.store.endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.store.secret }}
{{ include "stageflow.fromSecret" (dict "name" "AWS_ACCESS_KEY_ID" "secret" . "key" "AWS_ACCESS_KEY_ID") }}
{{ include "stageflow.fromSecret" (dict "name" "AWS_SECRET_ACCESS_KEY" "secret" . "key" "AWS_SECRET_ACCESS_KEY") }}
{{- end }}
{{- end -}}

{{- define "stageflow.databaseEnvironment" -}}
{{- with .Values.studies.secret }}
{{ include "stageflow.fromSecret" (dict "name" "PGPASSWORD" "secret" . "key" "password") }}
{{- end }}
{{- end -}}

{{/* What every node has: addresses, and credentials that no address holds. The operator adds the token. */}}
{{- define "stageflow.environment" -}}
- name: STAGEFLOW_HOME
  value: /var/lib/stageflow
- name: STAGEFLOW_STORE
  value: {{ .Values.store.uri | quote }}
- name: STAGEFLOW_STUDIES
  value: {{ .Values.studies.uri | quote }}
- name: MLFLOW_TRACKING_URI
  value: {{ if .Values.mlflow.server.enabled }}{{ printf "http://%s-mlflow:5000" (include "stageflow.name" .) }}{{ else }}{{ .Values.mlflow.uri | quote }}{{ end }}
{{- with .Values.mlflow.secret }}
{{ include "stageflow.fromSecret" (dict "name" "MLFLOW_TRACKING_USERNAME" "secret" . "key" "username") }}
{{ include "stageflow.fromSecret" (dict "name" "MLFLOW_TRACKING_PASSWORD" "secret" . "key" "password") }}
{{- end }}
{{- include "stageflow.bucketEnvironment" . }}
{{- include "stageflow.databaseEnvironment" . }}
# `ray job stop`, and deleting a RayJob, kill after 3 seconds otherwise: a sweep needs longer.
- name: RAY_JOB_STOP_WAIT_TIME_S
  value: "60"
# What a node that is told to stop has left for the work that it holds.
- name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
  value: "60"
{{- range $name, $value := .Values.environment }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* A RayJob's name: of what it runs. */}}
{{- define "stageflow.job" -}}
{{- printf "%s-%s" (include "stageflow.name" .) (list .Values.job .Values.image | toJson | sha256sum | trunc 8) -}}
{{- end -}}

{{- define "stageflow.tokenSecret" -}}
{{- .Values.ray.tokenSecret | default (include "stageflow.name" .) -}}
{{- end -}}
